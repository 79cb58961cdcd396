//! What services say on their notify sockets (sd_notify(3)), and whether the one who
//! says it belongs to the service. Parsing only; the sockets are in `supervise`.

/// The longest status that is kept, in bytes.
pub const STATUS_LIMIT: usize = 256;

/// What one datagram said that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// READY=1.
    pub ready: bool,
    /// STATUS=.
    pub status: Option<String>,
}

/// Parses one datagram: `KEY=VALUE` lines. Keys that we do not know are passed over.
pub fn parse(bytes: &[u8]) -> Said {
    let mut said = Said::default();
    for line in String::from_utf8_lossy(bytes).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => said.ready = true,
            Some(("STATUS", status)) => said.status = Some(shorten(status)),
            _ => {}
        }
    }
    said
}

/// Without control characters, and not too long.
fn shorten(status: &str) -> String {
    let mut text: String = status.chars().filter(|c| !c.is_control()).collect();
    while text.len() > STATUS_LIMIT {
        text.pop();
    }
    text
}

/// Whether `/proc/PID/cgroup` says that the process is in this cgroup or below it.
pub fn is_member(proc_cgroup: &str, cgroup: &str) -> bool {
    proc_cgroup
        .lines()
        .filter_map(|line| line.strip_prefix("0::/"))
        .any(|path| {
            path.strip_prefix(cgroup)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn readiness_and_status_are_heard() {
        let said = parse(b"MAINPID=7\nREADY=1\nSTATUS=serving\n");
        assert_eq!(
            said,
            Said {
                ready: true,
                status: Some("serving".into())
            }
        );
        assert_eq!(parse(b"READY=0\nRELOADING=1"), Said::default());
    }

    #[test]
    fn membership_ends_at_a_slash() {
        assert!(is_member("0::/orchestrator/main\n", "orchestrator/main"));
        assert!(is_member(
            "5:cpu:/x\n0::/orchestrator/main/a\n",
            "orchestrator/main"
        ));
        assert!(!is_member("0::/orchestrator/mainly\n", "orchestrator/main"));
        assert!(!is_member("0::/kubepods/pod1\n", "orchestrator/main"));
        assert!(!is_member("", "orchestrator/main"));
    }

    proptest! {
        #[test]
        fn any_datagram_is_taken(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let said = parse(&bytes);
            prop_assert!(said.status.is_none_or(|status| status.len() <= STATUS_LIMIT));
        }

        #[test]
        fn a_long_status_is_cut_between_characters(text in "[aß€😀]{0,300}") {
            let said = parse(format!("STATUS={text}").as_bytes());
            prop_assert!(text.starts_with(&said.status.unwrap()));
        }
    }
}
