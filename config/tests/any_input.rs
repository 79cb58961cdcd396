//! What holds for any input: it is answered, soon, and no answer shows a secret.

use keelson_config::{Severity, locate, parse, redact};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const CONFIG: &str = include_str!("cases/valid/server.yaml");
const SECRETS: [&str; 3] = ["correct-horse-battery-staple", "MAMCAQM=", "hush-hush-hush"];

/// Reads and stars out; says how long the slower of the two took.
fn answered(bytes: &[u8]) -> Duration {
    let begin = Instant::now();
    let outcome = parse("any.yaml", bytes);
    let mut took = begin.elapsed();
    let errors = outcome
        .diagnostics
        .iter()
        .any(|d| d.severity == Severity::Error);
    assert_eq!(
        outcome.machine.is_none(),
        errors,
        "refused if and only if there is an error"
    );
    for diagnostic in &outcome.diagnostics {
        assert!(
            diagnostic.render(true).len() < 4096,
            "{} bytes in one diagnostic",
            diagnostic.render(true).len()
        );
    }
    let begin = Instant::now();
    redact(bytes);
    took = took.max(begin.elapsed());
    took
}

/// A config of so many lines that are all valid.
fn long_config(lines: usize) -> String {
    let mut config = CONFIG.to_owned();
    let sysctls: String = (0..lines)
        .map(|n| format!("\n    vm.parameter_{n}: \"{n}\""))
        .collect();
    config = config.replace(
        "  sysctls: {vm.max_map_count: \"262144\", net.core.somaxconn: 4096, kernel.printk: 4 4 1 7}",
        &format!("  sysctls:{sysctls}"),
    );
    assert!(config.lines().count() > lines);
    config
}

#[test]
fn ten_megabytes_are_refused_at_once() {
    let outcome = parse("big.yaml", &vec![b'a'; 10_000_000]);
    assert!(
        outcome.diagnostics[0].message.contains("10000000 bytes"),
        "{:?}",
        outcome.diagnostics
    );
}

#[test]
fn hard_inputs_are_answered_soon() {
    let fill = |pattern: &str| pattern.repeat((1 << 20) / pattern.len());
    let lines =
        |line: &dyn Fn(usize) -> String, count: usize| (0..count).map(line).collect::<String>();
    let inputs = [
        ("brackets", fill("[")),
        ("braces", fill("{")),
        ("braces and keys", fill("{a: ")),
        ("dashes", fill("- ")),
        ("question marks", fill("? ")),
        ("colons", fill(": ")),
        ("colons without spaces", fill(":")),
        ("quotes", fill("\"")),
        ("open quote", format!("a: \"{}", fill("b"))),
        ("single quotes", fill("'a")),
        ("anchors", fill("&a ")),
        ("aliases", format!("a: [{}]", fill("*a, "))),
        ("tags", fill("!a ")),
        ("commas", format!("[{}", fill(", "))),
        ("one long word", fill("a")),
        ("one long line of words", fill("a ")),
        ("empty lines", format!("{}a: b", fill("\n"))),
        ("comments", format!("{}a: b", fill("#\n"))),
        ("block scalar", format!("a: |\n{}", fill("  b\n"))),
        ("block scalars", fill("a: |\n")),
        ("percent", fill("%a\n")),
        ("documents", fill("---\n")),
        ("unknown keys", lines(&|n| format!("k{n}: 1\n"), 40_000)),
        (
            "unknown keys in one line",
            format!("{{{}}}", lines(&|n| format!("k{n}: 1, "), 40_000)),
        ),
        ("the same key", lines(&|_| "a: 1\n".to_owned(), 40_000)),
        (
            "the same key at the end",
            format!("a: 1\n{}{}", "#\n".repeat(300_000), "b: 1\n".repeat(40_000)),
        ),
        (
            "wrong types",
            format!("machine:\n  time:\n    servers: [{}]", fill("1, ")),
        ),
        (
            "wrong names",
            format!("machine:\n  time:\n    servers: [{}]", fill("_, ")),
        ),
        (
            "indentation",
            lines(&|n| format!("{}a:\n", " ".repeat(n)), 1_400),
        ),
        ("secrets", lines(&|n| format!("token{n}: \"a\n"), 60_000)),
        ("secrets and colons", format!("token: [{}", fill("token: "))),
        (
            "one key and a megabyte of colons",
            format!("a{}", fill("a:")),
        ),
        ("a long key", format!("{}: 1", fill("k"))),
        ("tabs", fill("\t")),
        ("byte order marks", fill("a: \u{2028}")),
    ];
    for (name, input) in inputs {
        let took = answered(&input.as_bytes()[..input.len().min(1 << 20)]);
        println!("{took:>10.1?} {name}");
    }
}

#[test]
fn two_thousand_lines_are_read_soon() {
    let config = long_config(2000);
    let best = (0..5)
        .map(|_| {
            let begin = Instant::now();
            let outcome = parse("long.yaml", config.as_bytes());
            assert!(outcome.machine.is_some(), "{:?}", outcome.diagnostics);
            begin.elapsed()
        })
        .min()
        .unwrap();
    println!("{best:?} for {} lines", config.lines().count());
}

#[test]
fn redacting_keeps_lines_and_comments() {
    let config = CONFIG.replace("machine:", "# the machine\nmachine: # itself");
    let redacted = String::from_utf8(redact(config.as_bytes())).unwrap();
    assert_eq!(redacted.lines().count(), config.lines().count());
    for (before, after) in config.lines().zip(redacted.lines()) {
        let secret =
            SECRETS.iter().any(|secret| before.contains(secret)) || before.contains("PRIVATE KEY");
        if !secret {
            assert_eq!(before, after);
        }
    }
    for secret in SECRETS {
        assert!(
            config.contains(secret) && !redacted.contains(secret),
            "{redacted}"
        );
    }
    // What was shown is no config: nobody loses a key by sending it back.
    let outcome = parse("shown.yaml", redacted.as_bytes());
    assert!(
        outcome
            .diagnostics
            .iter()
            .any(|d| d.message == "is starred out"),
        "{:?}",
        outcome.diagnostics
    );
    assert_eq!(redact(redacted.as_bytes()), redacted.as_bytes());
}

#[test]
fn redacting_in_every_style() {
    let cases = [
        (
            "plain",
            "token: hush-hush # why\n",
            "token: \"***\" # why\n",
        ),
        (
            "double quotes",
            "token: \"hush-hush\"\n",
            "token: \"***\"\n",
        ),
        ("single quotes", "token: 'hush-hush'\n", "token: '***'\n"),
        (
            "block",
            "token: |\n  hush\n\n  hush\nb: 1\n",
            "token: |\n  ***\n\n  ***\nb: 1\n",
        ),
        (
            "folded",
            "token: >-\n    hush\n    hush\n",
            "token: >-\n    ***\n    ***\n",
        ),
        (
            "plain over lines",
            "token: hush\n  hush\n  hush\n",
            "token: \"***\n  ***\n  ***\"\n",
        ),
        (
            "quotes over lines",
            "token: \"hush\n  hush\"\n",
            "token: \"***\n  ***\"\n",
        ),
        ("flow", "{token: hush, b: 1}\n", "{token: \"***\", b: 1}\n"),
        (
            "list",
            "tokens: [hush, 'hush']\n",
            "tokens: [\"***\", '***']\n",
        ),
        (
            "map below",
            "credentials:\n  user: hush\n",
            "credentials:\n  user: \"***\"\n",
        ),
        ("numbers", "password: 1234\n", "password: \"***\"\n"),
        (
            "booleans say nothing",
            "secrets-encryption: true\n",
            "secrets-encryption: true\n",
        ),
        ("empty", "token:\nb: 1\n", "token:\nb: 1\n"),
        ("empty quotes", "token: ''\n", "token: ''\n"),
        (
            "second of two",
            "token: hush\ntoken: hush\n",
            "token: \"***\"\ntoken: \"***\"\n",
        ),
        (
            "private key anywhere",
            "a: '-----BEGIN PRIVATE KEY-----'\n",
            "a: '***'\n",
        ),
        (
            "broken text",
            "token: hush\n a: b: c\n",
            "token: ***\n ***\n",
        ),
        ("broken text, no secret", "a: b: c\n", "a: b: c\n"),
        (
            "broken text, open quote",
            "token: \"hush\nb: 1\n",
            "token: ***\n***\n",
        ),
        (
            "broken text, block",
            "token: |\n  hush\nb: [\n",
            "token: ***\n  ***\nb: [\n",
        ),
        (
            "broken text, a key",
            "x: [\n-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n",
            "x: [\n***\n***\n***\n",
        ),
        (
            "broken text, an environment",
            "b: [\nenv:\n  A: hush\n  B: hush\nc: 1\n",
            "b: [\nenv:\n  ***\n  ***\nc: 1\n",
        ),
        (
            "broken text, a proxy",
            "b: [\nproxy: {http: http://me:hush@proxy:3128}\n",
            "b: [\nproxy: {http: ***\n",
        ),
        (
            "a second document",
            "a: 1\n---\ntoken: hush\nkey: |\n  -----BEGIN PRIVATE KEY-----\n",
            "a: 1\n---\ntoken: ***\nkey: ***\n  ***\n",
        ),
        ("not text", "token: hush\0", "***\n"),
    ];
    for (name, text, want) in cases {
        assert_eq!(
            String::from_utf8(redact(text.as_bytes())).unwrap(),
            want,
            "{name}"
        );
    }
}

#[test]
fn a_path_is_found() {
    let at = |path| {
        let found = locate(
            "a.yaml",
            CONFIG.as_bytes(),
            path,
            Severity::Error,
            "is not in the image",
        );
        (found.line, found.to_string())
    };
    let (line, text) = at("orchestrator.name");
    assert!(
        line > 0 && text.contains("name: k3s") && text.contains("^^^"),
        "{text}"
    );
    assert_eq!(at("orchestrator.nowhere").0, 0);
    assert!(!at("orchestrator.token").1.contains(SECRETS[0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        answered(&bytes);
    }

    #[test]
    fn any_text(text in "[a-c:\\-\\[\\]{},&*!|>'\"%#?@ \t\n]{0,120}") {
        answered(text.as_bytes());
    }

    /// A config with one part of it broken is answered, and shows no secret.
    #[test]
    fn a_broken_config(at in 0..CONFIG.len(), cut in 0usize..40, put in "[a-z:\\-\\[\\]{},&*!|>'\"%#? \t\n]{0,4}") {
        prop_assume!(CONFIG.is_char_boundary(at));
        let end = (at + cut).min(CONFIG.len());
        let broken = format!("{}{put}{}", &CONFIG[..at], &CONFIG[end..]);
        answered(broken.as_bytes());
        // What is done to a secret or to its key may make it something else.
        let touched = SECRETS.iter().any(|secret| {
            CONFIG.match_indices(secret).any(|(found, _)| {
                let line = CONFIG[..found].rfind('\n').map_or(0, |at| at + 1);
                let line = CONFIG[..line.saturating_sub(1)].rfind('\n').map_or(0, |at| at + 1);
                at < found + secret.len() && end >= line
            })
        });
        if !touched {
            let outcome = parse("broken.yaml", broken.as_bytes());
            let shown: String = outcome.diagnostics.iter().map(|d| d.to_string()).collect();
            let redacted = String::from_utf8(redact(broken.as_bytes())).unwrap();
            for secret in SECRETS {
                prop_assert!(!shown.contains(secret), "shown: {shown}");
                prop_assert!(!redacted.contains(secret), "redacted: {redacted}");
            }
        }
    }
}
