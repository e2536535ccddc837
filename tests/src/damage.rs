//! Damage to files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Flips one bit; flipping it again repairs it.
pub fn flip_bit(path: impl AsRef<Path>, byte: u64, bit: u8) {
    let file = open(path.as_ref());
    let mut value = [0];
    file.read_exact_at(&mut value, byte).unwrap();
    file.write_all_at(&[value[0] ^ (1 << bit)], byte).unwrap();
}

/// Writes bytes over what is there.
pub fn overwrite(path: impl AsRef<Path>, bytes: &[u8], at: u64) {
    open(path.as_ref()).write_all_at(bytes, at).unwrap();
}

/// Cuts or extends (with zeros) a file.
pub fn set_len(path: impl AsRef<Path>, len: u64) {
    open(path.as_ref()).set_len(len).unwrap();
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}
