//! File systems of a test's own: small ones and read-only ones, in a mount namespace that ends with
//! the shell.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::places::{binary, skip};

/// Runs a shell script with a fresh file system mounted at `$DIR`, `cart` in `$CART`, and says what
/// it printed. None where the system does not allow mounts (a container without user namespaces),
/// which is said loudly.
///
/// The script's own failures are the caller's: it ends at the first command that fails.
pub fn with_small_file_system(folder: &Path, size: &str, script: &str) -> Option<String> {
    let mounted = format!("mount -t tmpfs -o size={size} none \"$DIR\"");
    let allowed = shell(folder, &mounted).output().is_ok_and(|output| output.status.success());
    if !allowed {
        skip("this system lets nobody mount a tmpfs in a namespace");
        return None;
    }
    let output = shell(folder, &format!("{mounted}\n{script}")).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\nstdout: {stdout}\nstderr: {stderr}", output.status);
    Some(stdout)
}

fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-euc", script]);
    command.env("DIR", folder).env("CART", binary()).stdin(Stdio::null());
    command
}
