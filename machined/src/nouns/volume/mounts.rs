//! Reads the kernel's table of mounts, as far as volumes need it.

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of its device, as `/sys/class/block/*/dev` has them.
    pub device: String,
    /// Where it is.
    pub point: String,
    /// Whether what is mounted below it is seen in other namespaces.
    pub shared: bool,
    /// What is mounted, for a person: "/dev/vda7", "tmpfs".
    pub source: String,
}

/// Reads `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)). A line that is not
/// understood is left out.
pub(crate) fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    let optional = fields.by_ref().skip(1).take_while(|&field| field != "-");
    let shared = optional
        .filter(|field| field.starts_with("shared:"))
        .count()
        > 0;
    let source = fields.nth(1)?;
    Some(Mount {
        device: device.to_owned(),
        point: unescape(point),
        shared,
        source: unescape(source),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURED: &str = "\
22 1 254:0 / / ro,relatime shared:1 - erofs /dev/dm-0 ro,user_xattr,acl
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw
47 22 253:7 / /var rw,noatime shared:12 master:3 - ext4 /dev/vda7 rw
48 22 253:6 / /system/state rw,nosuid,nodev,noexec,noatime - ext4 /dev/vda6 rw
49 47 0:50 / /var/with\\040space rw - tmpfs tmpfs rw
";

    #[test]
    fn a_table_as_the_kernel_writes_it() {
        let mounts = parse(CAPTURED);
        assert_eq!(mounts.len(), 5);
        assert_eq!(
            mounts[2],
            Mount {
                device: "253:7".into(),
                point: "/var".into(),
                shared: true,
                source: "/dev/vda7".into()
            }
        );
        assert!(!mounts[3].shared);
        assert_eq!(mounts[4].point, "/var/with space");
    }

    #[test]
    fn what_is_not_a_mount_is_left_out() {
        for text in [
            "",
            "\n",
            "22",
            "22 1 254:0 / /",
            "22 1 254:0 / / ro shared:1",
        ] {
            assert_eq!(parse(text), [], "{text:?}");
        }
    }

    #[test]
    fn a_lone_backslash_stays() {
        assert_eq!(unescape("a\\b\\04"), "a\\b\\04");
        assert_eq!(unescape("\\134\\040"), "\\ ");
    }
}
