//! What osctl says of bundles. The one that it looks at is the golden file of format 1, signed by
//! the two keys beside it.

use crate::desk::Desk;
use std::{fs, path::PathBuf, process::Command};

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../disk/testdata")
        .join(name)
}

/// A desk with the bundle, and the public half of a key that has signed it and of one that has
/// not.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("x.bundle", fs::read(testdata("bundle-1.bundle")).unwrap());
    desk.write(
        "a.pub",
        public(&fs::read_to_string(testdata("test-only-a.key")).unwrap()),
    );
    desk.write(
        "other.pub",
        public(&keelson_disk::bundle::SigningKey::generate().unwrap()),
    );
    desk
}

fn public(key: &str) -> String {
    let key = keelson_disk::bundle::SigningKey::from_pem(key).unwrap();
    key.public().to_pem()
}

#[test]
fn what_a_bundle_says_of_itself() {
    let desk = desk();
    insta::assert_snapshot!(desk.ok(&["bundle", "inspect", "x.bundle"]));
    let json = desk.ok(&["bundle", "inspect", "x.bundle", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["manifest"]["version"], "0.2.0-rc.1");
    assert_eq!(json["signedBy"].as_array().unwrap().len(), 2);
    let yaml = desk.ok(&["bundle", "inspect", "x.bundle", "-o", "yaml"]);
    assert!(yaml.contains("securityFloor: \"0.1.0\"\n"), "{yaml}");
}

#[test]
fn a_good_bundle_is_said_to_be_whole() {
    let desk = desk();
    for keys in [
        &["--key", "a.pub"][..],
        &["--key", "other.pub", "--key", "a.pub"],
    ] {
        let said = desk.ok(&[&["bundle", "verify", "x.bundle"], keys].concat());
        let want = "x.bundle is whole: version 0.2.0-rc.1, amd64, cloud, signed by ";
        assert!(said.starts_with(want), "{said}");
    }
    let mut command = desk.osctl(&["bundle", "verify", "-", "--key", "a.pub"]);
    let bundle = fs::File::open(desk.path("x.bundle")).unwrap();
    let run: &mut Command = command.stdin(bundle);
    assert!(run.output().unwrap().status.success());
}

#[test]
fn what_is_wrong_with_a_bundle() {
    let desk = desk();
    let bundle = fs::read(desk.path("x.bundle")).unwrap();
    desk.write("cut.bundle", &bundle[..bundle.len() - 1]);
    let mut bad = bundle.clone();
    *bad.last_mut().unwrap() ^= 1;
    desk.write("bad.bundle", &bad);
    desk.write("text.bundle", "hello");
    for (name, file, key) in [
        ("cut", "cut.bundle", "a.pub"),
        ("damaged", "bad.bundle", "a.pub"),
        ("not_a_bundle", "text.bundle", "a.pub"),
        ("absent", "absent.bundle", "a.pub"),
        ("not_a_key", "x.bundle", "text.bundle"),
    ] {
        let said = desk.fails(2, &["bundle", "verify", file, "--key", key]);
        insta::assert_snapshot!(name, said);
    }
    let said = desk.fails(2, &["bundle", "verify", "x.bundle", "--key", "other.pub"]);
    assert!(said.contains("and trusted is "), "{said}");
    assert!(said.contains("hint: give the public key"), "{said}");
    let said = desk.fails(1, &["bundle", "verify", "/", "--key", "a.pub"]);
    assert!(said.starts_with("error: cannot read /\n"), "{said}");
}
