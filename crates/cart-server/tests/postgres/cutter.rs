//! A connection that breaks at a chosen message.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Passes connections on to a port, and cuts one at the n-th message from the client on.
pub(crate) struct Cutter {
    pub(crate) port: u16,
    left: Arc<AtomicI64>,
    cut: Arc<AtomicI64>,
}

/// Whether the message at which it breaks still arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaks {
    /// It does not.
    Before,
    /// It does, and the answer does not.
    After,
}

impl Cutter {
    pub(crate) fn new(to: u16, breaks: Breaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (left, cut) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicI64::new(0)));
        let shared = (Arc::clone(&left), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (left, cut) = shared.clone();
                let (mut back, mut out) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut out);
                    let _ = out.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || forward(client, server, &left, &cut, breaks));
            }
        });
        Self { port, left, cut }
    }

    /// Lets `messages` pass, then cuts once.
    pub(crate) fn cut_after(&self, messages: i64) {
        self.cut.store(0, Ordering::SeqCst);
        self.left.store(messages, Ordering::SeqCst);
    }

    /// Lets everything pass; whether it has cut since the last call of [`Cutter::cut_after`].
    pub(crate) fn heal(&self) -> bool {
        self.left.store(i64::MAX, Ordering::SeqCst);
        self.cut.load(Ordering::SeqCst) > 0
    }
}

fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    left: &AtomicI64,
    cut: &AtomicI64,
    breaks: Breaks,
) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = client.read(&mut bytes) {
        let cuts = left.fetch_sub(1, Ordering::SeqCst) == 0;
        if cuts {
            cut.fetch_add(1, Ordering::SeqCst);
            // The answer goes nowhere from here on.
            let _ = client.shutdown(Shutdown::Both);
        }
        if (!cuts || breaks == Breaks::After) && server.write_all(&bytes[..read]).is_err() {
            break;
        }
        if cuts {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Write);
}
