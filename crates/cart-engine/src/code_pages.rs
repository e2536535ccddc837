//! Letting go of code that is not needed any more.
//!
//! Finding, checking and parsing a cartridge runs through some ten megabytes of the program that no token
//! needs. They count as the process's memory beside the weights until the system looks for memory.

/// Unmaps the pages of the program's code. They are the file's own, which stay in the system's cache;
/// those that run again are mapped again when they do. Does nothing where that is not known to work.
pub(crate) fn release() {
    #[cfg(target_os = "linux")]
    if let Some(code) = linux::code_around(release as fn() as usize) {
        linux::release(code);
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io::{BufRead as _, BufReader};
    use std::ops::Range;

    use rustix::mm::{Advice, madvise};

    /// The map of a file, executable and not writable, that an address is in.
    pub(super) fn code_around(address: usize) -> Option<Range<usize>> {
        let maps = BufReader::new(File::open("/proc/self/maps").ok()?);
        let mut maps = maps.split(b'\n').map_while(Result::ok);
        maps.find_map(|line| code(str::from_utf8(&line).ok()?).filter(|it| it.contains(&address)))
    }

    /// The addresses of a line of `/proc/PID/maps`, if it is of a file's code.
    fn code(line: &str) -> Option<Range<usize>> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (allowed, _offset, _device, inode) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if allowed != "r-xp" || inode == "0" {
            return None;
        }
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    }

    pub(super) fn release(code: Range<usize>) {
        let start = std::ptr::without_provenance_mut(code.start);
        // SAFETY: the pages are those of a file and were never written: code is not relocated, and the
        // map does not allow it. What is dropped is read from the file again. A failure leaves all as
        // it was.
        let _ = unsafe { madvise(start, code.len(), Advice::LinuxDontNeed) };
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_code_of_a_file_is_taken() {
            let line = "55d0c0a00000-55d0c1711000 r-xp 003a0000 fe:00 1048 /usr/bin/with a space";
            assert_eq!(code(line), Some(0x55d0_c0a0_0000..0x55d0_c171_1000));
            for other in [
                "55d0c0a00000-55d0c1711000 r--p 003a0000 fe:00 1048 /usr/bin/cart",
                "55d0c0a00000-55d0c1711000 rwxp 003a0000 fe:00 1048 /usr/bin/cart",
                "7ffd1a1f0000-7ffd1a1f2000 r-xp 00000000 00:00 0 [vdso]",
                "",
                "x-y r-xp 0 0 1",
            ] {
                assert_eq!(code(other), None, "{other}");
            }
        }

        #[test]
        fn the_program_goes_on_without_its_code_in_memory() {
            let code = code_around(release as fn(Range<usize>) as usize).unwrap();
            assert!(code.contains(&(code_around as fn(usize) -> Option<Range<usize>> as usize)));
            super::super::release();
            assert_eq!((1..=10).product::<u32>(), 3_628_800);
        }
    }
}
