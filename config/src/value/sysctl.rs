//! Keys of kernel parameters.

use super::Wrong;
use crate::{SysctlKey, tree::quote};
use std::str::FromStr;

/// The dotted form of sysctl(8). Where a part holds a dot of its own (the name of
/// a VLAN link), the dot is written as a slash: `net.ipv4.conf.eth0/100.forwarding`.
impl FromStr for SysctlKey {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let Some((first, _)) = text.split_once('.') else {
            let wrong = Wrong::new(format!(
                "{} is not the name of a kernel parameter",
                quote(text)
            ));
            return Err(if text.contains('/') {
                wrong.hint(format!(
                    "write it with dots: {}",
                    text.trim_matches('/').replace('/', ".")
                ))
            } else {
                wrong.hint("it is written with dots, as in vm.max_map_count")
            });
        };
        if first.contains('/') {
            return Err(Wrong::new(format!(
                "{} is not the name of a kernel parameter",
                quote(text)
            ))
            .hint("it is written with dots, as in vm.max_map_count"));
        }
        let part = |part: &str| {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_/:@".contains(c);
            !part.is_empty() && part.chars().all(fine) && !part.split('/').any(str::is_empty)
        };
        if text.len() > 255 || !text.split('.').all(part) {
            return Err(Wrong::new(format!(
                "{} is not the name of a kernel parameter",
                quote(text)
            ))
            .hint("its parts are letters, digits, - and _, with one dot between them"));
        }
        Ok(SysctlKey(text.to_owned()))
    }
}
