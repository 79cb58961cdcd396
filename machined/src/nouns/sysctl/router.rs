//! The parameters of links that have DHCPv6: their default route comes from router
//! advertisements (RFC 4861), and there alone. What the kernel hears of them, and what it
//! makes of it, is in Documentation/networking/ip-sysctl.rst. Pure.

use super::{How, Wanted};
use crate::nouns::link::{Seen, select};
use keelson_config::Network;
use std::collections::BTreeMap;

/// What the selected links that have DHCPv6 want. Other links are as the kernel has them:
/// they hear routers until the machine forwards packets.
pub(super) fn wanted(links: &[Seen], network: &Network) -> BTreeMap<String, Wanted> {
    let managed = select(links, network);
    let mut all = BTreeMap::new();
    for link in managed.iter().filter(|managed| managed.want.dhcp_v6) {
        // A dot parts the names of parameters: it is a slash in the name of a link.
        let name = link.seen.link.name.replace('.', "/");
        let mut want = |key: &str, value: String, why| {
            let wanted = Wanted {
                value,
                // A link may just be going.
                how: How::IfThere,
                why: Some(why),
            };
            all.insert(format!("net.ipv6.conf.{name}.{key}"), wanted);
        };
        want(
            "accept_ra",
            "2".into(),
            "routers are heard, also while the machine forwards packets of pods",
        );
        if !link.want.lease.routes {
            let why = "dhcp.useRoutes is false for the link";
            want("accept_ra_defrtr", "0".into(), why);
        }
        if let Some(metric) = link.want.lease.route_metric {
            let metric = metric.saturating_add(link.place(&managed));
            let why = "dhcp.routeMetric says so for the link";
            want("ra_defrtr_metric", metric.to_string(), why);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nouns::link::tests::{machine, named, network};

    /// Shows: network.links.dhcp.v6, network.links.dhcp.useRoutes
    /// Shows: network.links.dhcp.routeMetric
    #[test]
    fn a_link_with_dhcpv6_hears_routers() {
        let mut links = machine();
        links[2].link.name = "eth1.5".into();
        let mut network = network(&[named("eth0"), named("eth1.5")]);
        let shown = |network: &Network| -> Vec<String> {
            let all = wanted(&links, network);
            all.iter()
                .map(|(key, it)| format!("{key}={}", it.value))
                .collect()
        };
        assert_eq!(shown(&network), [""; 0], "the kernel's own");
        network.links[1].dhcp_v6 = true;
        assert_eq!(shown(&network), ["net.ipv6.conf.eth1/5.accept_ra=2"]);
        network.links[1].lease.routes = false;
        network.links[0].dhcp_v6 = true;
        network.links[0].lease.route_metric = Some(200);
        assert_eq!(
            shown(&network),
            [
                "net.ipv6.conf.eth0.accept_ra=2",
                "net.ipv6.conf.eth0.ra_defrtr_metric=200",
                "net.ipv6.conf.eth1/5.accept_ra=2",
                "net.ipv6.conf.eth1/5.accept_ra_defrtr=0",
            ]
        );
    }
}
