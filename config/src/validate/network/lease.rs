//! The rules of `network.links[].dhcp`: what is taken of a lease.

use crate::{
    LeaseUse,
    document::DhcpSection,
    read::{Given, Located, Reader},
};
use std::collections::BTreeMap;

/// What is taken. `metrics` are those that other links have, and where they say so.
pub(super) fn taken(
    reader: &mut Reader<'_>,
    written: &Given<DhcpSection>,
    metrics: &mut BTreeMap<u32, String>,
) -> LeaseUse {
    let Some(dhcp) = written.is() else {
        return LeaseUse::default();
    };
    let DhcpSection {
        v4,
        v6,
        route_metric,
        use_routes,
        use_nameservers,
        use_hostname,
    } = &dhcp.value;
    let yes = |given: &Given<bool>| given.is().is_none_or(|given| given.value);
    let asks =
        |given: &Given<bool>| matches!(given, Given::Is(Located { value: true, .. }) | Given::Bad);
    let places = [
        route_metric.is().map(|it| it.at),
        use_routes.is().map(|it| it.at),
        use_nameservers.is().map(|it| it.at),
        use_hostname.is().map(|it| it.at),
    ];
    for at in places
        .into_iter()
        .flatten()
        .filter(|_| !asks(v4) && !asks(v6))
    {
        let hint = "add `v4: true` or `v6: true`, or remove the key";
        reader.key_error(at, "there is no lease that it could be about", hint);
    }
    if let Some(hostname) = use_hostname.is()
        && !asks(v4)
        && asks(v6)
    {
        let hint = "remove the key: a DHCPv6 server has no name for the machine";
        reader.key_error(hostname.at, "no lease of IPv4 is asked for", hint);
    }
    let lease = LeaseUse {
        route_metric: route_metric.is().map(|it| it.value),
        routes: yes(use_routes),
        nameservers: yes(use_nameservers),
        hostname: yes(use_hostname),
    };
    if let Some(metric) = route_metric.is() {
        let number = metric.value;
        if number == 0 {
            let hint = "lower wins; remove it for the default";
            reader.error(metric.at, "the metric is at least 1", hint);
        } else if !lease.routes {
            let hint = "remove the key, or `useRoutes: false`";
            reader.key_error(metric.at, "no route of the lease is taken", hint);
        } else if let Some(first) = metrics.get(&number) {
            let message = format!("the routes of another lease have it too, see {first}");
            reader.error(
                metric.at,
                message,
                "give one of the two another: lower wins",
            );
        } else {
            metrics.insert(number, reader.path(metric.at));
        }
    }
    lease
}
