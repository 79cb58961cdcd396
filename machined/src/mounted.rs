//! Where something is mounted: reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// All mount points, in the order in which they were mounted.
pub(crate) fn mount_points() -> io::Result<Vec<PathBuf>> {
    fs::read("/proc/self/mountinfo").map(|table| parse(&table))
}

/// Whether something is mounted right here.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(mount_points()?.iter().any(|mounted| mounted == path))
}

fn parse(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|d| matches!(d, b'0'..=b'7')));
        match digits {
            Some(digits) => {
                path.push(digits.iter().fold(0u8, |value, digit| {
                    value.wrapping_mul(8).wrapping_add(digit - b'0')
                }));
                rest = &after[3..];
            }
            None => {
                path.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_as_the_kernel_writes_it() {
        let table = b"21 1 254:0 / / ro,relatime shared:1 - erofs /dev/dm-0 ro\n\
            30 21 0:25 / /run rw,nosuid - tmpfs tmpfs rw\n\
            31 21 8:1 / /mnt/a\\040b\\134c rw shared:7 - ext4 /dev/sda1 rw\n\nodd\n";
        let wanted: Vec<PathBuf> = ["/", "/run", "/mnt/a b\\c"].map(PathBuf::from).into();
        assert_eq!(parse(table), wanted);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(table: Vec<u8>) {
            parse(&table);
        }
    }
}
