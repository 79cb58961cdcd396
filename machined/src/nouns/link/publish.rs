//! What is shown of links: those of the machine's devices and those that the config means.

use super::{
    Links, Seen, made,
    select::{describe, matches, select},
};
use crate::{
    noun::Noun as _,
    resource::{Phase, Resource},
};
use keelson_config::{LinkSelector, Network};

pub(super) fn publish(all: &[Seen], network: &Network) -> Vec<Resource> {
    let managed = select(all, network);
    let parts = made::parts(network);
    let mut resources = Vec::new();
    for seen in all {
        let link = &seen.link;
        let managed = managed
            .iter()
            .find(|managed| managed.seen.link.index == link.index);
        if managed.is_none() && !seen.physical && !link.loopback {
            continue;
        }
        let part_of = parts.get(link.name.as_str());
        let lacks = managed.and_then(|managed| {
            let made = managed.want.made.as_ref()?;
            made::lacks(all, managed.want, made)
        });
        let (phase, message) = match (managed, part_of) {
            (None, None) if link.loopback => (Phase::Ready, ""),
            (None, None) => (Phase::Ready, "no entry of the config selects it"),
            _ if link.carrier => (Phase::Ready, ""),
            (Some(managed), None) if managed.named() && !managed.is_empty() => {
                (Phase::Pending, "no carrier: is a cable in?")
            }
            // Of a part: what it is part of tells whether the others do.
            _ => (Phase::Ready, "no carrier"),
        };
        let (phase, message) = lacks.unwrap_or_else(|| (phase, message.to_owned()));
        let mut resource = Resource::new(Links::KIND, &link.name, phase)
            .message(message)
            .field("up", link.up)
            .field("carrier", link.carrier)
            .field("mtu", link.mtu)
            .field("managed", managed.is_some());
        for (key, value) in managed.map(made::shown).unwrap_or_default() {
            resource = resource.field(key, value);
        }
        let upper = all.iter().find(|it| Some(it.link.index) == link.part_of);
        if let Some(upper) = upper {
            resource = resource.field("partOf", upper.link.name.as_str());
        }
        if let Some(mac) = link.mac {
            resource = resource.field("mac", mac.to_string());
        }
        if let Some(permanent) = link.permanent {
            resource = resource.field("permanentMac", permanent.to_string());
        }
        if let Some(driver) = &seen.driver {
            resource = resource.field("driver", driver.as_str());
        }
        resources.push(resource);
    }
    for want in &network.links {
        let part = |seen: &Seen| parts.contains_key(seen.link.name.as_str());
        let found = all.iter().any(|seen| matches(want, seen, part(seen)));
        if found || want.select == LinkSelector::default() {
            continue;
        }
        let none = || (Phase::Pending, "no link of this machine matches".to_owned());
        let made = want.made.as_ref();
        let (phase, message) = made
            .and_then(|made| made::lacks(all, want, made))
            .unwrap_or_else(none);
        resources.push(Resource::new(Links::KIND, describe(&want.select), phase).message(message));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{machine, named, network},
        *,
    };

    #[test]
    fn what_is_shown() {
        let mut seen = machine();
        seen[1].link.carrier = false;
        let shown = |selectors: &[LinkSelector]| {
            let all = publish(&seen, &network(selectors));
            all.into_iter()
                .map(|r| (r.name, r.phase, r.message))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, phase, message: &str| (name.to_owned(), phase, message.to_owned());
        assert_eq!(
            shown(&[named("eth0"), named("eth9")]),
            [
                row("lo", Phase::Ready, ""),
                row("eth0", Phase::Pending, "no carrier: is a cable in?"),
                row("eth1", Phase::Ready, "no entry of the config selects it"),
                row("eth9", Phase::Pending, "no link of this machine matches"),
            ]
        );
        assert_eq!(
            shown(&[LinkSelector::default()])[1],
            row("eth0", Phase::Ready, "no carrier")
        );
    }
}
