//! A running `cart serve` on a free port.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};

use crate::Cart;

/// A server process; killed when dropped.
pub struct Server {
    child: Child,
    url: String,
    agent: ureq::Agent,
    /// What requests carry as `Authorization: Bearer …`.
    key: Option<String>,
    /// What it said on stderr.
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `cart serve REFERENCE` and waits until it says where it listens.
    pub fn start(cart: &Cart, reference: &str) -> Self {
        Self::start_with(cart, reference, &["--listen", "127.0.0.1:0"])
    }

    /// As [`Server::start`], with other arguments.
    pub fn start_with(cart: &Cart, reference: &str, arguments: &[&str]) -> Self {
        let mut command = cart.command(["serve", reference].iter().chain(arguments));
        Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let url = {
            let stdout = BufReader::new(child.stdout.take().unwrap());
            let mut lines = stdout.lines().map_while(Result::ok);
            let found = lines.find_map(|line| address(&line));
            // What follows is read away, so that the server never waits for us.
            std::thread::spawn(move || lines.for_each(drop));
            found
        };
        let Some(url) = url else {
            let output = child.wait_with_output().unwrap();
            panic!("no server: {}", String::from_utf8_lossy(&output.stderr));
        };
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let lines = stderr.lines().map_while(Result::ok);
            lines.for_each(|line| heard.lock().unwrap().push(line));
        });
        Self { child, url, agent: agent(TlsConfig::default()), key: None, said }
    }

    /// The first lines that it says on stderr; waits until there are as many.
    pub fn first_said(&self, lines: usize) -> Vec<String> {
        for _ in 0..600 {
            let said = self.said.lock().unwrap();
            if said.len() >= lines {
                return said[..lines].to_vec();
            }
            drop(said);
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{:?}", self.said.lock().unwrap());
    }

    /// From now on requests carry this key.
    pub fn with_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// From now on the server is asked over TLS by this name, and a certificate is believed that this one, PEM,
    /// vouches for.
    pub fn trusting(mut self, name: &str, authority: &str) -> Self {
        let authority = ureq::tls::Certificate::from_pem(authority.as_bytes()).unwrap();
        let config = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(vec![authority])))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        self.agent = agent(config.build());
        self.url = self.url.replace("127.0.0.1", name);
        self
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As [`Server::post`]; none where no answer comes.
    pub fn try_post(&self, path: &str, body: &Value) -> Option<(u16, String)> {
        let mut response = self.signed(self.agent.post(self.at(path))).send_json(body).ok()?;
        Some((response.status().as_u16(), response.body_mut().read_to_string().ok()?))
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A GET: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = self.signed(self.agent.get(self.at(path))).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// A POST of JSON: status and body.
    pub fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let mut response = self.signed(self.agent.post(self.at(path))).send_json(body).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// A DELETE: status and body.
    pub fn delete(&self, path: &str) -> (u16, String) {
        let mut response = self.signed(self.agent.delete(self.at(path))).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// A GET of JSON that must succeed.
    pub fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A POST of JSON that must succeed with JSON.
    pub fn post_json(&self, path: &str, body: &Value) -> Value {
        let (status, body) = self.post(path, body);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    /// Asks for a graceful end, as Ctrl-C does, and waits for it.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent(tls: TlsConfig) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_mins(2)))
        .tls_config(tls);
    ureq::Agent::new_with_config(config.build())
}

/// The address in a line such as `listening on http://127.0.0.1:8080`.
fn address(line: &str) -> Option<String> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| line.contains(scheme))?;
    let (_, rest) = line.split_once(scheme)?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
    Some(format!("{scheme}{}", &rest[..end.unwrap_or(rest.len())]))
}
