//! Patches and printing: tables for the rules, properties for what always holds.

use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn draft(text: &str) -> Draft {
    Draft::read("a.yaml", text.as_bytes()).unwrap_or_else(|wrong| panic!("{text}\n{wrong:?}"))
}

fn patch(text: &str) -> Patch {
    Patch::read("p.yaml", text.as_bytes()).unwrap_or_else(|wrong| panic!("{text}\n{wrong:?}"))
}

const BASE: &str = "
network:
  links:
    - {name: eth0, dhcp: {v4: true}}
    - {select: {mac: 52:54:00:12:34:56}, addresses: [10.0.0.1/24], routes: [{to: 10.1.0.0/16, via: 10.0.0.2}]}
  nameservers: [1.1.1.1]
orchestrator:
  settings: {disable: [traefik], cluster-init: true}
";

#[test]
fn merging() {
    let cases: &[(&str, &str, &str, Json)] = &[
        (
            "maps are merged",
            "machine: {hostname: a}",
            "/machine",
            json!({"hostname": "a"}),
        ),
        (
            "scalars are replaced",
            "orchestrator: {settings: {cluster-init: false}}",
            "/orchestrator/settings",
            json!({"disable": ["traefik"], "cluster-init": false}),
        ),
        (
            "lists are replaced",
            "network: {nameservers: [9.9.9.9]}",
            "/network/nameservers",
            json!(["9.9.9.9"]),
        ),
        (
            "a plus appends",
            "network: {+nameservers: [9.9.9.9, 1.1.1.1]}",
            "/network/nameservers",
            json!(["1.1.1.1", "9.9.9.9"]),
        ),
        (
            "a plus appends to what is not there",
            "machine: {time: {+servers: [a]}}",
            "/machine/time",
            json!({"servers": ["a"]}),
        ),
        (
            "a plus appends to the orchestrator's own lists",
            "orchestrator: {settings: {+disable: [servicelb], +tls-san: [a]}}",
            "/orchestrator/settings",
            json!({"disable": ["traefik", "servicelb"], "tls-san": ["a"], "cluster-init": true}),
        ),
        (
            "links are merged by name",
            "network: {links: [{name: eth0, addresses: [10.2.0.1/24]}, {name: eth1}]}",
            "/network/links",
            json!([
                {"name": "eth0", "dhcp": {"v4": true}, "addresses": ["10.2.0.1/24"]},
                {"select": {"mac": "52:54:00:12:34:56"}, "addresses": ["10.0.0.1/24"],
                 "routes": [{"to": "10.1.0.0/16", "via": "10.0.0.2"}]},
                {"name": "eth1"},
            ]),
        ),
        (
            "links are merged by selector, routes by destination",
            "network: {links: [{select: {mac: 52:54:00:12:34:56}, routes: [{to: 10.1.0.0/16, metric: 5}]}]}",
            "/network/links/1/routes",
            json!([{"to": "10.1.0.0/16", "via": "10.0.0.2", "metric": 5}]),
        ),
        (
            "an entry is removed",
            "network: {links: [{name: eth0, $patch: delete}]}",
            "/network/links/0/addresses",
            json!(["10.0.0.1/24"]),
        ),
        (
            "an entry is replaced",
            "network: {links: [{name: eth0, $patch: replace, addresses: [10.2.0.1/24]}]}",
            "/network/links/0",
            json!({"name": "eth0", "addresses": ["10.2.0.1/24"]}),
        ),
        (
            "a list of entries is replaced",
            "network: {links: [$patch: replace, {name: eth9}]}",
            "/network/links",
            json!([{"name": "eth9"}]),
        ),
        (
            "a map is replaced",
            "orchestrator: {settings: {$patch: replace, debug: true}}",
            "/orchestrator/settings",
            json!({"debug": true}),
        ),
        (
            "null removes",
            "orchestrator: {settings: {disable: null, nothing: null}}",
            "/orchestrator/settings",
            json!({"cluster-init": true}),
        ),
        (
            "a map is removed",
            "orchestrator: {settings: {$patch: delete}}",
            "/orchestrator",
            json!({}),
        ),
        (
            "two entries that nothing tells apart stay two",
            "network: {links: [{name: b, routes: [{to: 10.9.0.0/16, metric: 1}, {to: 10.9.0.0/16, metric: 2}]}]}",
            "/network/links/2/routes",
            json!([{"to": "10.9.0.0/16", "metric": 1}, {"to": "10.9.0.0/16", "metric": 2}]),
        ),
        (
            "nothing is left of the patch's own words",
            "machine: {time: {servers: null, $patch: merge}}",
            "/machine",
            json!({"time": {}}),
        ),
    ];
    for (rule, text, at, want) in cases {
        let once = draft(BASE).patched(&patch(text)).unwrap();
        assert_eq!(once.to_json().pointer(at), Some(want), "{rule}");
        let twice = once.patched(&patch(text)).unwrap();
        assert!(once == twice, "{rule}: twice is not once");
    }
}

#[test]
fn steps() {
    let cases: &[(&str, &str, Result<(&str, Json), &str>)] = &[
        (
            "add to a map",
            "[{op: add, path: /machine, value: {hostname: a}}]",
            Ok(("/machine/hostname", json!("a"))),
        ),
        (
            "add to a list",
            "[{op: add, path: /network/nameservers/0, value: 9.9.9.9}]",
            Ok(("/network/nameservers", json!(["9.9.9.9", "1.1.1.1"]))),
        ),
        (
            "add at the end",
            "[{op: add, path: /network/nameservers/-, value: 9.9.9.9}]",
            Ok(("/network/nameservers", json!(["1.1.1.1", "9.9.9.9"]))),
        ),
        (
            "replace, test, copy, move",
            "- {op: test, path: /network/links/0/name, value: eth0}
- {op: replace, path: /network/links/0/name, value: eth7}
- {op: copy, from: /network/links/0, path: /network/links/-}
- {op: move, from: /network/nameservers, path: /machine}",
            Ok(("/network/links/2/name", json!("eth7"))),
        ),
        (
            "keys with slashes",
            "[{op: add, path: /a~1b~0c, value: 1}]",
            Ok(("/a~1b~0c", json!(1))),
        ),
        (
            "nothing there",
            "[{op: remove, path: /machine/hostname}]",
            Err("p.yaml:1:21: error: [0].path: there is nothing at /machine/hostname\n"),
        ),
        (
            "beyond the list",
            "[{op: add, path: /network/nameservers/7, value: a}]",
            Err(
                "p.yaml:1:18: error: [0].path: the list has 1 items, none is at /network/nameservers/7\n",
            ),
        ),
        (
            "another value",
            "[{op: test, path: /network/nameservers, value: []}]",
            Err("p.yaml:1:19: error: [0].path: /network/nameservers has another value\n"),
        ),
        (
            "into itself",
            "[{op: move, from: /network, path: /network/links/0}]",
            Err("p.yaml:1:35: error: [0].path: /network/links/0 is within /network\n"),
        ),
    ];
    for (rule, text, want) in cases {
        match (draft(BASE).patched(&patch(text)), want) {
            (Ok(done), Ok((at, want))) => {
                assert_eq!(done.to_json().pointer(at), Some(want), "{rule}");
            }
            (Err(wrong), Err(want)) => {
                let text = wrong[0].to_string();
                assert!(text.starts_with(want), "{rule}: {text}");
            }
            (done, _) => panic!("{rule}: {done:?}"),
        }
    }
}

#[test]
fn a_patch_is_judged_by_itself() {
    let cases: &[(&str, &[&str])] = &[
        ("machine: {hostnam: a}", &["machine.hostnam: unknown key"]),
        (
            "machine: {hostname: 5}",
            &["machine.hostname: expected text, found a number"],
        ),
        (
            "machine: {role: servr}",
            &["machine.role: expected one of server, agent, none"],
        ),
        ("kind: Pod", &["kind: expected Machine, found \"Pod\""]),
        (
            "network: {links: [{dhcp: {v4: true}}]}",
            &["network.links[0].name: name or select must say which entry is meant"],
        ),
        (
            "network: {links: [null]}",
            &["network.links[0]: expected a map, found nothing"],
        ),
        (
            "machine: {+hostname: a}",
            &["only a list can be appended to"],
        ),
        (
            "network: {+nameservers: 1.1.1.1}",
            &["expected a list, found text"],
        ),
        (
            "machine: {time: {$patch: remove}}",
            &["machine.time[\"$patch\"]: expected one of merge, replace, delete"],
        ),
        (
            "machine: {time: {$patch: delete, servers: []}}",
            &["nothing else may stand beside it"],
        ),
        (
            "machine: {hostname: a_b, role: 1, x: 2}",
            &[
                "machine.role: expected text, found a number",
                "machine.x: unknown key",
            ],
        ),
        ("a: [", &["a [ is opened and never closed"]),
        ("just text", &["a patch is a map or a list"]),
        (
            "[{op: ad, path: /a}]",
            &["[0].op: expected one of add, remove"],
        ),
        (
            "[{op: add, path: a, value: 1}]",
            &["[0].path: \"a\" is not a pointer"],
        ),
        ("[{op: add, path: /a}]", &["[0]: the step has no value"]),
        (
            "[{op: remove, path: /a, value: 1}]",
            &["[0].value: unknown key for remove"],
        ),
        ("[{op: remove, path: /a~2}]", &["is not a pointer"]),
        ("[1]", &["[0]: a step is a map"]),
    ];
    for (text, want) in cases {
        let wrong = Patch::read("p.yaml", text.as_bytes()).expect_err(text);
        let shown: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), want.len(), "{text}: {shown:?}");
        for (shown, want) in shown.iter().zip(*want) {
            assert!(
                shown.starts_with("p.yaml:1:") && shown.contains(want),
                "{shown}"
            );
        }
    }
    // What is missing may be in the config, and nothing is no mistake.
    for text in [
        "machine: {api: {issuer: {}}}",
        "",
        "# nothing\n",
        "{}",
        "[]",
    ] {
        patch(text);
    }
}

#[test]
fn printing() {
    let text = "
b: 1
orchestrator: {token: t, name: k3s, settings: {a-list: [\"1\", x], \"odd key\": \"yes\", when: \"12:30\", v: 0x1F}}
machine:
  api: {ca: \"-----BEGIN\\nx\\n\", sans: [\"2001:db8::1\"]}
  hostname: 'it''s'
  role: none
  sysctls: {}
network: {links: [{dhcp: {v4: true}, name: eth0, routes: [{via: 10.0.0.1, to: 0.0.0.0/0}]}]}
";
    let want = "\
machine:
  hostname: \"it's\"
  role: none
  sysctls: {}
  api:
    ca: |
      -----BEGIN
      x
    sans:
      - \"2001:db8::1\"

network:
  links:
    - name: eth0
      dhcp:
        v4: true
      routes:
        - to: 0.0.0.0/0
          via: 10.0.0.1

orchestrator:
  name: k3s
  token: t
  settings:
    a-list: [\"1\", x]
    odd key: \"yes\"
    when: \"12:30\"
    v: 0x1F
b: 1
";
    assert_eq!(*draft(text).print(), want);
}

#[test]
fn changes_have_paths_and_no_secrets() {
    let other = draft(BASE)
        .patched(&patch(
            "
machine: {hostname: b, time: {servers: [x, z]}}
network: {links: [{name: eth0, dhcp: {v4: false}}, {select: {mac: 52:54:00:12:34:56}, $patch: delete}, {name: eth1, addresses: [10.5.0.1/16]}]}
orchestrator: {token: hush, settings: {disable: null, agent-token: hush}}",
        ))
        .unwrap();
    let lines: Vec<_> = draft(BASE)
        .changes(&other)
        .iter()
        .map(|change| format!("{change}; {}", change.takes.words()))
        .collect();
    assert_eq!(
        lines,
        [
            "+ machine.hostname: b; restarts the orchestrator",
            "+ machine.time.servers: [x, z]; live",
            "~ network.links[eth0].dhcp.v4: true -> false; live",
            "- network.links[mac=52:54:00:12:34:56]: {select: {mac: \"52:54:00:12:34:56\"}, addresses: [10.0.0.1/24], routes: [{to: 10.1.0.0/16, via: 10.0.…; live",
            "+ network.links[eth1]: {name: eth1, addresses: [10.5.0.1/16]}; live",
            "+ orchestrator.token: ***; restarts the orchestrator",
            "- orchestrator.settings.disable: [traefik]; restarts the orchestrator",
            "+ orchestrator.settings.agent-token: ***; restarts the orchestrator",
        ]
    );
    let third = other
        .patched(&patch("orchestrator: {token: hush2}"))
        .unwrap();
    assert_eq!(
        other.changes(&third)[0].to_string(),
        "~ orchestrator.token: *** (another)"
    );
    assert_eq!(*other.patch_to(&third), "orchestrator:\n  token: hush2\n");
}

/// Values as a config may hold them, some of them where the model wants them.
fn values() -> impl Strategy<Value = Written> {
    let text = prop_oneof![
        "\\PC{0,12}",
        "[ -~\n\t]{0,12}",
        "[a-c]{1,3}",
        prop::sample::select(vec![
            "yes",
            "no",
            "1.0",
            "~",
            "null",
            "- a",
            "a: b",
            "#",
            "0x1",
            "",
            "***",
            "12:30",
            "a\nb",
            "a\n\n",
            " a\n",
            "a\n  b\n",
            "a:",
            "\u{85}",
            "\u{2028}x",
            "%a",
            "10.0.0.1/8",
        ])
        .prop_map(str::to_owned),
    ]
    .prop_filter("text that a config cannot hold", |text| {
        !text.contains(|c: char| c == '\u{feff}' || (c.is_control() && !"\t\n\u{85}".contains(c)))
    });
    let leaf = prop_oneof![
        any::<bool>().prop_map(|it| Written::Bare(it.to_string())),
        any::<i32>().prop_map(|it| Written::Bare(it.to_string())),
        Just(Written::Bare("0x1F".to_owned())),
        text.prop_map(Written::Text),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Written::List),
            map(inner),
        ]
    })
}

fn map(inner: impl Strategy<Value = Written> + 'static) -> impl Strategy<Value = Written> {
    let key = prop_oneof!["[a-d]", "[ -~]{0,4}", Just("null".to_owned())]
        .prop_filter("a patch's own words", |key| !key.starts_with(['+', '$']));
    prop::collection::vec((key, inner), 0..4).prop_map(|entries| {
        let mut map: Vec<(String, Written)> = Vec::new();
        for (key, value) in entries {
            if !map.iter().any(|(name, _)| *name == key) {
                map.push((key, value));
            }
        }
        Written::Map(map)
    })
}

/// A config: links with names and routes, settings with anything.
fn drafts() -> impl Strategy<Value = Draft> {
    let route = ("[a-b]", prop::option::of(0..3u32)).prop_map(|(to, metric)| {
        let mut route = vec![("to".to_owned(), Written::Text(to))];
        route.extend(metric.map(|m| ("metric".to_owned(), Written::Bare(m.to_string()))));
        Written::Map(route)
    });
    let link = (
        prop::sample::select(vec!["name", "select"]),
        "[a-c]",
        prop::collection::vec(route, 0..3),
        prop::option::of("[a-b]"),
    )
        .prop_map(|(by, name, routes, address)| {
            let name = Written::Text(name);
            let mut link = match by {
                "name" => vec![(by.to_owned(), name)],
                _ => vec![(by.to_owned(), Written::Map(vec![("mac".to_owned(), name)]))],
            };
            let address = address.map(|it| Written::List(vec![Written::Text(it)]));
            link.extend(address.map(|it| ("addresses".to_owned(), it)));
            link.push(("routes".to_owned(), Written::List(routes)));
            Written::Map(link)
        });
    (
        prop::collection::vec(link, 0..4),
        map(values()),
        prop::option::of("[a-z]{1,5}"),
    )
        .prop_map(|(links, settings, hostname)| {
            let map = |entries: Vec<(&str, Written)>| {
                let entries = entries.into_iter();
                Written::Map(
                    entries
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                )
            };
            let machine = hostname.map(|name| ("hostname", Written::Text(name)));
            let mut root = map(vec![
                ("machine", map(machine.into_iter().collect())),
                ("network", map(vec![("links", Written::List(links))])),
                ("orchestrator", map(vec![("settings", settings)])),
            ]);
            root.order(Some(Document::SHAPE));
            Draft { root }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_reads_back(draft in drafts()) {
        let text = draft.print();
        let read = Draft::read("a.yaml", text.as_bytes());
        prop_assert!(read.is_ok(), "{}\n{:?}", *text, read.err());
        let read = read.unwrap();
        prop_assert!(read == draft, "{}\n---\n{}", *text, *read.print());
        prop_assert_eq!(read.print(), text);
    }

    #[test]
    fn an_empty_patch_changes_nothing(draft in drafts()) {
        for empty in ["", "{}", "[]"] {
            prop_assert!(draft.patched(&patch(empty)).unwrap() == draft);
        }
    }

    #[test]
    fn merging_twice_is_merging_once(one in drafts(), two in drafts()) {
        // Any config is a patch.
        let text = two.print();
        let patch = Patch::read("p.yaml", text.as_bytes()).unwrap();
        let once = one.patched(&patch).unwrap();
        prop_assert!(once.patched(&patch).unwrap() == once, "{}", *text);
    }

    #[test]
    fn the_patch_between_two_makes_one_of_the_other(one in drafts(), two in drafts()) {
        let text = one.patch_to(&two);
        let patch = Patch::read("p.yaml", text.as_bytes());
        prop_assert!(patch.is_ok(), "{}\n{:?}", *text, patch.err());
        let made = one.patched(&patch.unwrap()).unwrap();
        prop_assert!(made.root.same(&two.root), "{}\n---\n{}", *text, *made.print());
        prop_assert_eq!(one.changes(&two).is_empty(), one.root.same(&two.root));
    }

    /// Any text is answered.
    #[test]
    fn any_patch(text in "[a-c$+/:\\-\\[\\]{},&*!|>'\"%#?@ \t\n]{0,120}") {
        if let Ok(patch) = Patch::read("p.yaml", text.as_bytes()) {
            drop(draft(BASE).patched(&patch));
        }
    }
}
