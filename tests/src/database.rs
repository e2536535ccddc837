//! A PostgreSQL of a test's own, on a free port, in a folder that goes with it.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

// Whose tests these are says how one is skipped.
use crate::skip;

/// The user as whom the database runs where the tests run as root, for which it does not: `nobody`.
const NOBODY: u32 = 65534;

/// A running database; it ends with the test.
pub struct Database {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Database {
    /// Starts a fresh database. None, said loudly, where PostgreSQL is not installed and `$CART_TEST_POSTGRES` (the folder
    /// of its programs) does not ask for it; `scripts/test` installs it and sets that.
    pub fn start() -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut database = Self { folder, programs, port, server: None };
        let data = database.data();
        let mut initdb = database.command("initdb");
        initdb.args(["-D", &data, "-U", "cart", "--auth=trust", "--no-sync", "-E", "UTF8"]);
        let made = initdb.args(["--locale=C"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        database.resume();
        Some(database)
    }

    /// Starts it again after [`Database::stop`] or [`Database::kill`].
    pub fn resume(&mut self) {
        let mut server = self.command("postgres");
        server.args(["-D", &self.data(), "-p", &self.port.to_string()]);
        server.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=40"]);
        server.args(["-k", self.folder.path().to_str().unwrap()]);
        self.server = Some(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let mut asked = self.command("pg_isready");
        asked.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for _ in 0..1200 {
            if asked.status().unwrap().success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the database does not come up");
    }

    /// Ends it as a restart does: connections are cut, and what was committed is on disk.
    pub fn stop(&mut self) {
        self.end("-INT");
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.end("-QUIT");
    }

    /// Its address.
    pub fn url(&self) -> String {
        Self::url_at(self.port)
    }

    /// Its address behind something that listens on another port.
    pub fn url_at(port: u16) -> String {
        format!("postgres://cart@127.0.0.1:{port}/postgres")
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a query gives, as `psql` prints it without alignment.
    pub fn query(&self, sql: &str) -> String {
        let mut psql = self.command("psql");
        let out =
            psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url()]).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn end(&mut self, signal: &str) {
        let Some(mut server) = self.server.take() else { return };
        let pid = server.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        server.wait().unwrap();
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let own = self.programs.join(program);
        let mut command = Command::new(if own.exists() { own } else { program.into() });
        command.current_dir(self.folder.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    let own = std::fs::metadata("/proc/self").map(|of| std::os::unix::fs::MetadataExt::uid(&of));
    own.is_ok_and(|uid| uid == 0)
}

/// The folder of the programs.
fn programs() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("CART_TEST_POSTGRES").filter(|given| !given.is_empty()) {
        let given = PathBuf::from(given);
        assert!(given.join("initdb").is_file(), "CART_TEST_POSTGRES is {}", given.display());
        return Some(given);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    let has = |folder: &PathBuf, program: &str| Path::is_file(&folder.join(program));
    let found = folders.into_iter().find(|folder| has(folder, "initdb") && has(folder, "postgres"));
    if found.is_none() {
        skip("PostgreSQL is not installed; `scripts/test` installs it and sets CART_TEST_POSTGRES");
    }
    found
}
