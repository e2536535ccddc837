//! The server's certificate, and a look for a renewed one as long as the server runs.

use std::io::Write as _;
use std::time::Duration;

use cart_server::TlsIdentity;

use super::ServeArgs;
use crate::failure::Failure;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What the arguments give, if they do.
pub(super) fn read(args: &ServeArgs) -> Result<Option<TlsIdentity>, Failure> {
    let files = args.tls_cert.as_deref().zip(args.tls_key.as_deref());
    let identity = files.map(|(certificate, key)| TlsIdentity::read(certificate, key));
    identity.transpose().map_err(Failure::refused)
}

/// Looks again and again whether the files have something else, on a thread that ends with the process.
pub(super) fn renew(identity: TlsIdentity) {
    let look = move || {
        let (mut before, mut said) = (None, None);
        loop {
            std::thread::sleep(LOOK);
            let found = match identity.renew() {
                Ok(renewed) => {
                    if renewed {
                        tell("the certificate was renewed");
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            // Between a certificate and its key there is a moment in which they do not belong together.
            if let Some(error) = found.as_ref().filter(|_| found == before && found != said) {
                tell(&format!("{error}; the certificate stays what it was"));
                said.clone_from(&found);
            }
            before = found;
        }
    };
    // Without a thread a renewed certificate needs a restart.
    let _ = std::thread::Builder::new().name("cart-certificate".to_owned()).spawn(look);
}

fn tell(text: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
