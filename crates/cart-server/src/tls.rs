//! TLS by the server itself: its certificate and key, and a listener whose connections are encrypted.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to agree on a key.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have agreed on one and wait to be taken.
const AGREED: usize = 64;

/// A certificate chain with its private key, ready to be served with. Clones are one: renewed together.
#[derive(Clone)]
pub struct TlsIdentity {
    config: Arc<ServerConfig>,
    pair: Arc<Pair>,
}

/// The pair that connections are given from now on, and where it is from.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
    now: ArcSwap<Read>,
}

/// What the files had when they were read last.
struct Read {
    bytes: [Vec<u8>; 2],
    pair: Arc<CertifiedKey>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.certificate.display(), self.key.display())
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now.load().pair))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity(…)")
    }
}

/// Why a certificate or a key can't be served with.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no PEM.
    #[error("{} is not PEM, or damaged: {source}; allowed: {allowed}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: rustls::pki_types::pem::Error,
        /// What the file should have.
        allowed: &'static str,
    },
    /// There is no certificate in the file.
    #[error(
        "{} has no certificate; give the PEM with `-----BEGIN CERTIFICATE-----`, the server's own first",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key don't belong together, or can't be used.
    #[error(
        "the certificate in {} can't be served with the key in {}: {source}",
        certificate.display(), key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What was found.
        source: rustls::Error,
    },
}

impl TlsIdentity {
    /// Reads a certificate chain and its private key (PKCS #8, PKCS #1 or SEC 1), both PEM.
    ///
    /// # Errors
    /// A file can't be read, is no PEM or lacks what it should have, or the two don't belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let now = ArcSwap::from_pointee(read_pair(certificate, key)?);
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let pair = Arc::new(Pair { certificate, key, now });
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| pair.refuse(source))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&pair) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), pair })
    }

    /// Reads the files again; connections that begin from now on are given what they have. Whether that is something else than before.
    ///
    /// # Errors
    /// As of [`TlsIdentity::read`]; what was served with is served with still.
    pub fn renew(&self) -> Result<bool, TlsError> {
        let Pair { certificate, key, now } = &*self.pair;
        if [read(certificate)?, read(key)?] == now.load().bytes {
            return Ok(false);
        }
        now.store(Arc::new(read_pair(certificate, key)?));
        Ok(true)
    }
}

impl Pair {
    fn refuse(&self, source: rustls::Error) -> TlsError {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        TlsError::Pair { certificate, key, source }
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Read, TlsError> {
    let bytes = [read(certificate)?, read(key)?];
    let chain = certificates(certificate, &bytes[0])?;
    let allowed = "a private key in PKCS #8, PKCS #1 or SEC 1, without a passphrase";
    let private = PrivateKeyDer::from_pem_slice(&bytes[1]).map_err(|source| TlsError::Pem {
        path: key.to_owned(),
        source,
        allowed,
    })?;
    let pair = CertifiedKey::from_der(chain, private, &provider()).map_err(|source| {
        TlsError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source }
    })?;
    Ok(Read { bytes, pair: Arc::new(pair) })
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let allowed = "the server's certificate and those that vouch for it";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain = chain.map_err(|source| TlsError::Pem { path: path.to_owned(), source, allowed })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

/// Connections that have agreed on a key. Each agrees in a task of its own, so that one that is slow
/// about it holds up no other.
pub(crate) struct TlsListener {
    agreed: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    /// Encrypts the connections of a listener from now on.
    ///
    /// # Errors
    /// The listener has no address.
    pub(crate) fn new(listener: TcpListener, identity: &TlsIdentity) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::clone(&identity.config));
        let (sender, agreed) = mpsc::channel(AGREED);
        let accepting = tokio::spawn(accept_all(listener, acceptor, sender));
        Ok(Self { agreed, address, accepting })
    }
}

impl Drop for TlsListener {
    /// The port is free from now on.
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept_all(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    agreed: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        let (stream, from) = Listener::accept(&mut listener).await;
        // A token is a small packet; waiting to fill one would hold tokens back.
        let _ = stream.set_nodelay(true);
        let (acceptor, agreed) = (acceptor.clone(), agreed.clone());
        tokio::spawn(async move {
            // Whoever speaks something else, or nothing, is let go.
            let agreeing = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
            if let Ok(Ok(stream)) = agreeing.await {
                let _ = agreed.send((stream, from)).await;
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.agreed.recv().await {
            Some(connection) => connection,
            // The accepting task ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
