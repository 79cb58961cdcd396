//! What must be there before the orchestrator is started. `unmet` is pure; what it
//! judges is gathered by `look`.

use crate::{
    mounted::is_mount_point,
    resource::{Phase, Resource, Store},
};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// What was seen of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Whether every noun has been gone over for the config that is in force.
    pub settled: bool,
    /// Whether a file system is mounted at /var.
    pub data: bool,
    /// The global addresses.
    pub addresses: Vec<String>,
    /// Whether there is a default route.
    pub default_route: bool,
    /// The kernel's host name.
    pub hostname: String,
    /// The resources of the kinds that count here.
    pub nouns: Vec<Resource>,
    /// The resources of the volumes.
    pub volumes: Vec<Resource>,
    /// Whether modules are being loaded.
    pub loading: bool,
    /// Whether the clock is behind the time the image was built at.
    pub clock_behind: bool,
    /// Whether time servers are configured, and none has answered yet.
    pub unsynchronised: bool,
    /// How long the machine has had an address.
    pub connected_for: Duration,
    /// How long the first answer of a time server is waited for.
    pub first_sync: Duration,
}

/// The kinds whose resources must be ready.
const NOUNS: [&str; 5] = ["hostname", "resolver", "file", "sysctl", "image"];

/// What is missing, in words; nothing if the orchestrator can be started.
/// `node_ip` says that its address is configured.
pub(crate) fn unmet(seen: &Seen, node_ip: bool) -> Vec<String> {
    let mut unmet = Vec::new();
    if !seen.settled {
        unmet.push("the machine is not yet as configured".to_owned());
    }
    if !seen.data {
        unmet.push("the data volume is not mounted".to_owned());
    }
    if seen.addresses.is_empty() {
        unmet.push("there is no network address".to_owned());
    }
    if !seen.default_route && !node_ip {
        unmet.push("there is no default route, and node-ip is not set".to_owned());
    }
    if matches!(seen.hostname.as_str(), "" | "(none)" | "localhost") {
        unmet.push("the host name is not set".to_owned());
    }
    for noun in &seen.nouns {
        if noun.phase == Phase::Pending {
            unmet.push(format!(
                "{} {} is pending: {}",
                noun.kind, noun.name, noun.message
            ));
        }
    }
    for volume in &seen.volumes {
        let (name, message) = (&volume.name, &volume.message);
        if volume.phase == Phase::Pending && volume.spec.get("mounted") == Some(&false.into()) {
            unmet.push(format!("the volume {name} is not mounted: {message}"));
        }
    }
    if seen.loading {
        unmet.push("kernel modules are being loaded".to_owned());
    }
    if seen.clock_behind {
        unmet.push("the clock is behind the time that the image was built at".to_owned());
    } else if seen.unsynchronised && seen.connected_for < seen.first_sync {
        unmet.push("no time server has answered yet".to_owned());
    }
    unmet
}

/// Looks at the machine. `settled`, `unsynchronised`, `connected_for`
/// and `first_sync` are the caller's.
pub(crate) fn look(resources: &Store, build_time: u64) -> Seen {
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Seen {
        data: is_mount_point(Path::new("/var")).unwrap_or(false),
        addresses: addresses(resources),
        default_route: default_route(),
        hostname: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        loading: resources
            .list("module")
            .iter()
            .any(|module| module.spec.get("loading") == Some(&true.into())),
        volumes: resources.list("volume"),
        nouns: NOUNS.iter().flat_map(|kind| resources.list(kind)).collect(),
        clock_behind: clock.as_secs() < build_time,
        ..Seen::default()
    }
}

/// The addresses that others can reach the machine at: no loopback, no link-local, and
/// none on a link that the orchestrator made.
pub(crate) fn addresses(resources: &Store) -> Vec<String> {
    let mut addresses = Vec::new();
    for resource in resources.list("address") {
        // The name is "link/address/prefix".
        let mut parts = resource.name.split('/');
        let (Some(_), Some(address)) = (parts.next(), parts.next()) else {
            continue;
        };
        // What the servers share is this machine's for a while only.
        if resource.phase == Phase::Ready
            && resource.spec.get("source") != Some(&"shared".into())
            && is_global(address)
            && !addresses.iter().any(|known| known == address)
        {
            addresses.push(address.to_owned());
        }
    }
    addresses
}

fn is_global(address: &str) -> bool {
    match address.parse() {
        Ok(std::net::IpAddr::V4(v4)) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified())
        }
        Ok(std::net::IpAddr::V6(v6)) => {
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast())
        }
        Err(_) => false,
    }
}

fn default_route() -> bool {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    default_v4(&v4) || default_v6(&v6)
}

/// /proc/net/route: the destination is the second field, the mask the eighth.
fn default_v4(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    })
}

/// /proc/net/ipv6_route: destination, its prefix, …, the link last. The kernel keeps
/// a default route on `lo` that rejects everything.
fn default_v6(table: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields
            .first()
            .is_some_and(|to| to.bytes().all(|b| b == b'0'))
            && fields.get(1) == Some(&"00")
            && fields.last().is_some_and(|link| *link != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Seen {
        Seen {
            settled: true,
            data: true,
            addresses: vec!["10.0.2.15".into()],
            default_route: true,
            hostname: "server-1".into(),
            first_sync: Duration::from_secs(90),
            ..Seen::default()
        }
    }

    /// Shows: machine.time.bootTimeout
    #[test]
    fn each_need_is_named() {
        let pending =
            Resource::new("resolver", "resolv.conf", Phase::Pending).message("no answer from DHCP");
        let volume = |phase, mounted| {
            let message = "no disk matches";
            Resource::new("volume", "longhorn", phase)
                .message(message)
                .field("mounted", mounted)
        };
        let with = |volume| Seen {
            volumes: vec![volume, Resource::new("volume", "data", Phase::Pending)],
            ..good()
        };
        let cases: [(&str, Seen, bool, &[&str]); 14] = [
            (
                "a volume that may come",
                with(volume(Phase::Pending, false)),
                false,
                &["the volume longhorn is not mounted: no disk matches"],
            ),
            (
                "a volume that is not waited for any more",
                with(volume(Phase::Failed, false)),
                false,
                &[],
            ),
            (
                "a volume that fills up",
                with(volume(Phase::Pending, true)),
                false,
                &[],
            ),
            ("all there", good(), false, &[]),
            (
                "not settled",
                Seen {
                    settled: false,
                    ..good()
                },
                false,
                &["the machine is not yet as configured"],
            ),
            (
                "no data",
                Seen {
                    data: false,
                    ..good()
                },
                false,
                &["the data volume is not mounted"],
            ),
            (
                "no route",
                Seen {
                    default_route: false,
                    ..good()
                },
                false,
                &["there is no default route, and node-ip is not set"],
            ),
            (
                "no route but node-ip",
                Seen {
                    default_route: false,
                    ..good()
                },
                true,
                &[],
            ),
            (
                "no name",
                Seen {
                    hostname: "(none)".into(),
                    ..good()
                },
                false,
                &["the host name is not set"],
            ),
            (
                "a noun",
                Seen {
                    nouns: vec![pending],
                    ..good()
                },
                false,
                &["resolver resolv.conf is pending: no answer from DHCP"],
            ),
            (
                "modules",
                Seen {
                    loading: true,
                    ..good()
                },
                false,
                &["kernel modules are being loaded"],
            ),
            (
                "an old clock",
                Seen {
                    clock_behind: true,
                    ..good()
                },
                false,
                &["the clock is behind the time that the image was built at"],
            ),
            (
                "no time yet",
                Seen {
                    unsynchronised: true,
                    connected_for: Duration::from_secs(89),
                    ..good()
                },
                false,
                &["no time server has answered yet"],
            ),
            (
                "no time for long",
                Seen {
                    unsynchronised: true,
                    connected_for: Duration::from_secs(90),
                    ..good()
                },
                false,
                &[],
            ),
        ];
        for (name, seen, node_ip, wanted) in cases {
            assert_eq!(unmet(&seen, node_ip), wanted, "{name}");
        }
    }

    #[test]
    fn default_routes_in_the_kernels_tables() {
        let head =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let default = "eth0\t00000000\t0202000A\t0003\t0\t0\t1024\t00000000\t0\t0\t0\n";
        let local = "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(default_v4(&format!("{head}{local}{default}")));
        assert!(!default_v4(&format!("{head}{local}")));
        let zeros = "0".repeat(32);
        let v6 = |link: &str| {
            format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 {link}\n")
        };
        assert!(!default_v6(&v6("lo")));
        assert!(default_v6(&v6("eth0")));
    }

    #[test]
    fn only_global_addresses_count() {
        let store = Store::new();
        let names = [
            "lo/127.0.0.1/8",
            "eth0/10.0.2.15/24",
            "eth0/fe80::1/64",
            "eth0/fd00::5/64",
            "odd",
            "eth1/10.0.2.15/24",
        ];
        store.replace(
            "address",
            names
                .iter()
                .map(|name| Resource::new("address", *name, Phase::Ready))
                .collect(),
        );
        assert_eq!(addresses(&store), ["10.0.2.15", "fd00::5"]);
    }
}
