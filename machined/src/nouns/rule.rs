//! The noun rule: which packets' way is looked up in which table. Only rules that carry
//! machined's mark are ever removed: those of the pods' network, and the kernel's own, stay.

use crate::{
    netlink::{Mark, Netlink, Rule},
    noun::Noun,
    resource::{Phase, Resource},
};
use keelson_config::{self as config, Machine, Network};
use std::fmt;

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Add a rule.
    Add(Rule),
    /// Remove a rule that machined added.
    Remove(Rule),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Add(rule) => write!(f, "add the rule {}", words(rule)),
            Step::Remove(rule) => write!(f, "remove the rule {}", words(rule)),
        }
    }
}

/// A rule as ip-rule(8) prints it, and of which family it is where it does not say.
fn words(rule: &Rule) -> String {
    let mut words = format!("{}:", rule.priority);
    if rule.from.is_none() && rule.to.is_none() {
        words += match rule.v6 {
            true => " IPv6",
            false => " IPv4",
        };
    }
    let parts = [
        rule.from.map(|from| format!(" from {from}")),
        rule.to.map(|to| format!(" to {to}")),
        rule.fw_mark.map(|mark| format!(" fwmark {mark}")),
        rule.iif.as_ref().map(|iif| format!(" iif {iif}")),
    ];
    words.extend(parts.into_iter().flatten());
    words + &format!(" lookup {}", rule.table)
}

/// The rules that there shall be: one for each family that the config's could be of.
fn wanted(network: &Network) -> Vec<Rule> {
    let of = |rule: &config::Rule, v6| Rule {
        priority: rule.priority,
        v6,
        from: rule.from,
        to: rule.to,
        fw_mark: rule.fw_mark,
        iif: rule.iif.clone(),
        table: rule.table,
        mark: Some(Mark::Config),
    };
    let families = |rule: &config::Rule| match rule.from.or(rule.to) {
        Some(network) => vec![network.addr.is_ipv6()],
        None => vec![false, true],
    };
    let rules = network.rules.iter();
    rules
        .flat_map(|rule| families(rule).into_iter().map(|v6| of(rule, v6)))
        .collect()
}

/// Whether a rule is there; somebody else's that says the same is as good, since the kernel
/// takes no second one.
fn is_there(have: &[Rule], rule: &Rule) -> bool {
    have.iter().any(|there| {
        let same = Rule {
            mark: rule.mark,
            ..there.clone()
        };
        same == *rule
    })
}

/// The missing steps. What is added comes first: a rule that is changed counts until the
/// other does.
fn plan(have: &[Rule], network: &Network) -> Vec<Step> {
    let wanted = wanted(network);
    let missing = wanted.iter().filter(|rule| !is_there(have, rule));
    let mut steps: Vec<Step> = missing.cloned().map(Step::Add).collect();
    let ours = have.iter().filter(|there| there.mark.is_some());
    let left = ours.filter(|there| !wanted.contains(there));
    steps.extend(left.cloned().map(Step::Remove));
    steps
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Rules;

impl Noun for Rules {
    const KIND: &'static str = "rule";
    type Have = Vec<Rule>;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Vec<Rule>> {
        Netlink::connect()?.rules().await
    }

    fn plan(&self, have: &Vec<Rule>, want: &Machine) -> Vec<Step> {
        plan(have, &want.network)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let netlink = Netlink::connect()?;
        match step {
            Step::Add(rule) => netlink.add_rule(rule).await,
            Step::Remove(rule) => netlink.remove_rule(rule).await,
        }
    }

    fn publish(&self, have: &Vec<Rule>, want: &Machine) -> Vec<Resource> {
        publish(have, &want.network)
    }
}

/// The config's rules. Those of others are many, and theirs to show.
fn publish(have: &[Rule], network: &Network) -> Vec<Resource> {
    let wanted = wanted(network).into_iter();
    let shown = wanted.map(|rule| {
        let family = match rule.v6 {
            true => "ipv6",
            false => "ipv4",
        };
        let (phase, message) = match is_there(have, &rule) {
            true => (Phase::Ready, ""),
            false => (Phase::Pending, "is not there yet"),
        };
        let name = format!("{}/{family}", rule.priority);
        let mut resource = Resource::new(Rules::KIND, name, phase)
            .message(message)
            .field("priority", rule.priority)
            .field("family", family)
            .field("table", rule.table);
        let texts = [
            ("from", rule.from.map(|from| from.to_string())),
            ("to", rule.to.map(|to| to.to_string())),
            ("iif", rule.iif.clone()),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                resource = resource.field(key, text);
            }
        }
        match rule.fw_mark {
            Some(mark) => resource.field("fwMark", mark),
            None => resource,
        }
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{netlink, noun::Reconcile as _, nouns::kernel_tests::apart, resource::Store};
    use proptest::prelude::*;

    fn rule(priority: u32, from: Option<&str>, table: u32) -> config::Rule {
        config::Rule {
            priority,
            from: from.map(|text| text.parse().unwrap()),
            to: None,
            fw_mark: None,
            iif: None,
            table,
        }
    }

    fn network(rules: &[config::Rule]) -> Network {
        Network {
            rules: rules.to_vec(),
            ..Network::default()
        }
    }

    fn take(have: &mut Vec<Rule>, network: &Network) -> Vec<String> {
        let steps = plan(have, network);
        for step in &steps {
            match step {
                Step::Add(rule) => have.push(rule.clone()),
                Step::Remove(rule) => have.retain(|there| there != rule),
            }
        }
        assert_eq!(plan(have, network), [], "after {steps:?}");
        steps.iter().map(ToString::to_string).collect()
    }

    /// Shows: network.rules
    #[test]
    fn from_one_config_to_the_next() {
        let marked = config::Rule {
            fw_mark: Some(51820),
            ..rule(50, None, 254)
        };
        let routed = config::Rule {
            to: Some("10.20.0.0/16".parse().unwrap()),
            iif: Some("eth1".into()),
            ..rule(60, None, 100)
        };
        type Case = (&'static str, Vec<config::Rule>, &'static [&'static str]);
        let cases: [Case; 6] = [
            (
                "one network",
                vec![rule(100, Some("10.9.0.0/24"), 100)],
                &["add the rule 100: from 10.9.0.0/24 lookup 100"],
            ),
            (
                "another table: at no time none",
                vec![rule(100, Some("10.9.0.0/24"), 101)],
                &[
                    "add the rule 100: from 10.9.0.0/24 lookup 101",
                    "remove the rule 100: from 10.9.0.0/24 lookup 100",
                ],
            ),
            (
                "a mark is of both families",
                vec![marked.clone()],
                &[
                    "add the rule 50: IPv4 fwmark 51820 lookup 254",
                    "add the rule 50: IPv6 fwmark 51820 lookup 254",
                    "remove the rule 100: from 10.9.0.0/24 lookup 101",
                ],
            ),
            (
                "all of it",
                vec![marked, routed, rule(70, Some("fd00::/64"), 100)],
                &[
                    "add the rule 60: to 10.20.0.0/16 iif eth1 lookup 100",
                    "add the rule 70: from fd00::/64 lookup 100",
                ],
            ),
            (
                "somebody else's is as good",
                vec![rule(10, Some("10.42.0.0/16"), 7)],
                &[
                    "remove the rule 50: IPv4 fwmark 51820 lookup 254",
                    "remove the rule 50: IPv6 fwmark 51820 lookup 254",
                    "remove the rule 60: to 10.20.0.0/16 iif eth1 lookup 100",
                    "remove the rule 70: from fd00::/64 lookup 100",
                ],
            ),
            ("and stays", vec![], &[]),
        ];
        let of_pods = Rule {
            mark: None,
            ..wanted(&network(&[rule(10, Some("10.42.0.0/16"), 7)]))[0].clone()
        };
        let mut have = vec![of_pods.clone()];
        for (what, rules, steps) in cases {
            assert_eq!(take(&mut have, &network(&rules)), steps, "{what}");
        }
        assert_eq!(have, [of_pods]);
    }

    #[test]
    fn what_is_shown() {
        let rules = network(&[rule(50, None, 254), rule(100, Some("fd00::/64"), 100)]);
        let have = vec![wanted(&rules)[0].clone()];
        let shown: Vec<_> = publish(&have, &rules)
            .into_iter()
            .map(|it| (it.name, it.phase))
            .collect();
        let row = |name: &str, phase| (name.to_owned(), phase);
        assert_eq!(
            shown,
            [
                row("50/ipv4", Phase::Ready),
                row("50/ipv6", Phase::Pending),
                row("100/ipv6", Phase::Pending),
            ]
        );
    }

    #[test]
    fn in_a_real_kernel() {
        apart(in_the_kernel());
    }

    async fn in_the_kernel() {
        let netlink = Netlink::connect().unwrap();
        let loopback = netlink.links().await.unwrap()[0].index;
        netlink.set_up(loopback).await.unwrap();
        let cidr = |text: &str| text.parse().unwrap();
        let route = |table| netlink::Route {
            link: loopback,
            to: cidr("10.20.0.0/16"),
            via: None,
            source: None,
            metric: 1024,
            table,
            mark: Some(Mark::Config),
        };
        for table in [254, 100, 70_000] {
            netlink.add_route(&route(table)).await.unwrap();
            let routes = netlink.routes().await.unwrap();
            assert!(routes.contains(&route(table)), "{routes:?}");
        }
        netlink.remove_route(&route(100)).await.unwrap();
        let routes = netlink.routes().await.unwrap();
        assert!(!routes.contains(&route(100)) && routes.contains(&route(254)));

        let theirs = Rule {
            mark: None,
            ..wanted(&network(&[rule(100, Some("10.42.0.0/16"), 7)]))[0].clone()
        };
        netlink.add_rule(&theirs).await.unwrap();
        let mut want = Machine::maintenance();
        let store = Store::new();
        let all = config::Rule {
            to: Some(cidr("10.9.0.0/24")),
            fw_mark: Some(51820),
            iif: Some("lo".into()),
            ..rule(90, Some("10.8.0.0/24"), 70_000)
        };
        want.network = network(&[
            rule(80, None, 254),
            all,
            rule(100, Some("fd00::/64"), 100),
            rule(110, Some("10.42.0.0/16"), 7),
        ]);
        let pass = Rules.reconcile(&want, &store).await;
        assert!(pass.failed.is_empty() && pass.taken.len() == 5, "{pass:?}");
        let pass = Rules.reconcile(&want, &store).await;
        assert!(pass.failed.is_empty() && pass.taken.is_empty(), "{pass:?}");
        assert!(store.list("rule").iter().all(|it| it.phase == Phase::Ready));
        want.network.rules.clear();
        let pass = Rules.reconcile(&want, &store).await;
        assert!(pass.failed.is_empty() && pass.taken.len() == 5, "{pass:?}");
        let left = netlink.rules().await.unwrap();
        assert!(left.contains(&theirs), "{left:?}");
        assert!(left.iter().all(|rule| rule.mark.is_none()), "{left:?}");
    }

    fn any_rules() -> impl Strategy<Value = Vec<config::Rule>> {
        let from = prop::option::of(prop::sample::select(vec!["10.9.0.0/24", "fd00::/64"]));
        let one = (1u32..5, from, 100u32..103);
        let all = prop::collection::vec(one, 0..5);
        all.prop_map(|all| {
            let mut rules: Vec<_> = (all.iter())
                .map(|(priority, from, table)| rule(*priority, *from, *table))
                .collect();
            rules.sort_by_key(|rule| rule.priority);
            rules.dedup_by_key(|rule| rule.priority);
            rules
        })
    }

    proptest! {
        #[test]
        fn a_plan_ends_and_others_rules_stay(theirs in any_rules(), one in any_rules(), two in any_rules()) {
            let mut have = wanted(&network(&theirs));
            have.iter_mut().for_each(|rule| rule.mark = None);
            let theirs = have.clone();
            take(&mut have, &network(&one));
            take(&mut have, &network(&two));
            prop_assert!(theirs.iter().all(|rule| have.contains(rule)));
        }
    }
}
