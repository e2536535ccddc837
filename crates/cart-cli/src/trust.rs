//! Whose certificates a client believes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::failure::Failure;

/// Why a server can't be trusted over TLS.
#[derive(Debug, Error)]
enum TrustError {
    /// The file can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has no certificates.
    #[error("{} has no certificate; give a PEM with `-----BEGIN CERTIFICATE-----`", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The system has none.
    #[error("the system has no certificates to trust; give the server's authority with --ca")]
    NoneOfTheSystem,
    /// A file of certificates for a server that has none.
    #[error("--ca is for servers over https; {server} is not one")]
    Plain {
        /// The server's address.
        server: String,
    },
}

/// How the certificate of a server is judged; none where it is not asked over TLS.
///
/// * `authorities`: certificates to trust; those of the system where there are none
pub(crate) fn trusted(
    server: &str,
    authorities: Option<&Path>,
) -> Result<Option<TlsConfig>, Failure> {
    let https = server.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    let roots = match (https, authorities) {
        (false, None) => return Ok(None),
        (false, Some(_)) => {
            return Err(Failure::refused(TrustError::Plain { server: server.to_owned() }));
        }
        (true, Some(path)) => of_file(path).map_err(Failure::refused)?,
        (true, None) => of_system().map_err(Failure::refused)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(provider);
    Ok(Some(config.build()))
}

fn of_file(path: &Path) -> Result<Vec<Certificate<'static>>, TrustError> {
    let bytes = std::fs::read(path)
        .map_err(|source| TrustError::Unreadable { path: path.to_owned(), source })?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = parse_pem(&bytes).filter_map(certificate).collect();
    if found.is_empty() {
        return Err(TrustError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

fn of_system() -> Result<Vec<Certificate<'static>>, TrustError> {
    // What can't be read of them vouches for nobody.
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return Err(TrustError::NoneOfTheSystem);
    }
    Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}
