//! Files as they are found, planned and put.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

fn file(mode: u32, text: &str) -> Form {
    RenderedFile::file("/", mode, text).form
}

#[test]
fn plans() {
    let path = || PathBuf::from("/f");
    let link = |to: &str| Form::Link { target: to.into() };
    let dir = |mode| Form::Directory { mode };
    let put = |form: &Form| {
        vec![Step::Put(RenderedFile {
            path: path(),
            form: form.clone(),
        })]
    };
    let cases = [
        (
            "as wanted",
            Found::Is(file(0o600, "a")),
            file(0o600, "a"),
            vec![],
        ),
        (
            "nothing there",
            Found::Absent,
            file(0o600, "a"),
            put(&file(0o600, "a")),
        ),
        (
            "other contents",
            Found::Is(file(0o600, "b")),
            file(0o600, "a"),
            put(&file(0o600, "a")),
        ),
        (
            "only the mode",
            Found::Is(file(0o644, "a")),
            file(0o600, "a"),
            vec![Step::SetMode(path(), 0o600)],
        ),
        (
            "a link where a file should be",
            Found::Is(link("/x")),
            file(0o600, "a"),
            put(&file(0o600, "a")),
        ),
        (
            "a link elsewhere",
            Found::Is(link("/x")),
            link("/y"),
            put(&link("/y")),
        ),
        ("a right link", Found::Is(link("/y")), link("/y"), vec![]),
        (
            "no directory",
            Found::Absent,
            dir(0o700),
            vec![Step::MakeDirectory(path(), 0o700)],
        ),
        (
            "an open directory",
            Found::Is(dir(0o755)),
            dir(0o700),
            vec![Step::SetMode(path(), 0o700)],
        ),
        (
            "a directory in the way",
            Found::Is(dir(0o755)),
            file(0o600, "a"),
            vec![Step::Obstructed(path(), "a directory is there")],
        ),
        (
            "a file in the way",
            Found::Is(file(0o600, "")),
            dir(0o700),
            vec![Step::Obstructed(path(), "a file is there, no directory")],
        ),
        (
            "a socket",
            Found::Other,
            dir(0o700),
            vec![Step::Obstructed(path(), "a device or a socket is there")],
        ),
    ];
    for (name, found, form, want) in cases {
        assert_eq!(
            plan(&[found], &[RenderedFile { path: path(), form }]),
            want,
            "{name}"
        );
    }
}

#[test]
fn twice_is_once() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let wanted = [
        RenderedFile::directory(at("a/b"), 0o700),
        RenderedFile::file(at("a/b/secret"), 0o600, "hush"),
        RenderedFile::file(at("plain"), 0o644, ""),
        RenderedFile::link(at("a/link"), "/nowhere"),
    ];
    let steps = ensure(&wanted).unwrap();
    assert_eq!(steps.len(), 4);
    assert!(!format!("{steps:?}").contains("hush"), "{steps:?}");
    assert_eq!(ensure(&wanted).unwrap(), []);
    assert_eq!(fs::read(at("a/b/secret")).unwrap(), b"hush");
    assert_eq!(
        fs::metadata(at("a/b/secret")).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    // No temporary file stays.
    assert_eq!(fs::read_dir(at("a/b")).unwrap().count(), 1);
    // What someone else changed is set right.
    fs::write(at("a/b/secret"), "hush, but longer").unwrap();
    fs::set_permissions(at("plain"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(ensure(&wanted).unwrap().len(), 2);
    assert_eq!(ensure(&wanted).unwrap(), []);
}

#[test]
fn what_was_cut_short_is_no_hindrance() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(".f.new"), "half").unwrap();
    let wanted = [RenderedFile::file(root.path().join("f"), 0o600, "whole")];
    ensure(&wanted).unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

/// Shows: network.hosts
#[test]
fn hosts_name_the_machine() {
    let none = Network::default();
    let with = |name| hosts(name, &none).lines().nth(2).map(str::to_owned);
    assert_eq!(with(""), None);
    assert_eq!(with("(none)"), None);
    assert_eq!(with("localhost"), None);
    assert_eq!(with("server-1").unwrap(), "127.0.1.1 server-1");
    assert_eq!(
        with("server-1.example.org").unwrap(),
        "127.0.1.1 server-1.example.org server-1"
    );
    let network = Network {
        hosts: [
            ("fd00::1".parse().unwrap(), vec!["k8s".into()]),
            (
                "10.0.0.100".parse().unwrap(),
                vec!["k8s.example.com".into(), "k8s".into()],
            ),
        ]
        .into(),
        ..Network::default()
    };
    let text = hosts("a", &network);
    assert!(
        text.ends_with("127.0.1.1 a\n10.0.0.100 k8s.example.com k8s\nfd00::1 k8s\n"),
        "{text}"
    );
}

#[tokio::test]
async fn the_noun_converges() {
    let root = tempfile::tempdir().unwrap();
    let (id, receiver) = watch::channel(String::new());
    let mut noun = Files::below(root.path(), receiver);
    let machine = Machine::maintenance();
    for (machine_id, files) in [("", 3), ("0123", 4)] {
        id.send_replace(machine_id.to_owned());
        let have = noun.observe(&machine).await.unwrap();
        for step in noun.plan(&have, &machine) {
            noun.apply(&step).await.unwrap();
        }
        let have = noun.observe(&machine).await.unwrap();
        assert_eq!(noun.plan(&have, &machine), []);
        let resources = noun.publish(&have, &machine);
        assert_eq!(resources.len(), files);
        assert!(
            resources
                .iter()
                .all(|resource| resource.phase == Phase::Ready),
            "{resources:?}"
        );
    }
    assert_eq!(
        fs::read_to_string(root.path().join("run/etc/machine-id")).unwrap(),
        "0123\n"
    );
}
