//! The engine without a machine below it: STATE is a folder, init is absent.

use super::*;
use crate::store::tests::config;
use keelson_api::v1::diagnostic::Severity;
use std::{fs, path::Path};
use tokio::time::timeout;

struct Node {
    handle: Handle,
    /// What the nouns are kept to.
    wanted: watch::Receiver<Wanted>,
    console: PathBuf,
}

/// A node whose STATE is here; `Err` as where it cannot be mounted.
fn node(dir: &Path, state: Result<PathBuf, String>) -> Node {
    booted(dir, state, "boot-1")
}

/// A node in a boot of this id.
fn booted(dir: &Path, state: Result<PathBuf, String>, boot: &str) -> Node {
    let console = dir.join("console");
    fs::File::options()
        .append(true)
        .create(true)
        .open(&console)
        .unwrap();
    let (handle, mut engine, inbox) = Engine::new(Ground {
        facts: Facts {
            boot_id: boot.to_owned(),
            ..Facts::default()
        },
        init: Init::new(None).unwrap(),
        resources: Arc::new(Store::new()),
        events: Events::new(),
        console: Console::new(&console),
        machine_id: watch::Sender::default(),
        payload: None,
    })
    .unwrap();
    let wanted = engine.wanted.subscribe();
    tokio::spawn(async move {
        engine.open(state);
        let nouns = Nouns {
            before: Vec::new(),
            volume: Volume::new(None),
            after: Vec::new(),
        };
        let running = engine.start_tasks(
            nouns,
            Wake::default(),
            cluster::share::Shared::new(Wake::default()),
        );
        engine.run(inbox, running).await;
    });
    Node {
        handle,
        wanted,
        console,
    }
}

fn good(dir: &Path) -> Node {
    node(dir, Ok(dir.join("state")))
}

fn apply(config: &[u8]) -> Apply {
    Apply {
        config: config.to_vec().into(),
        file_name: "machine.yaml".into(),
        source: "CN=admin".into(),
        dry_run: false,
        only_first: true,
        expected_generation: None,
        mode: Mode::Auto,
    }
}

/// An administrator's config, not the first.
fn with(mode: Mode, config: &[u8]) -> Apply {
    Apply {
        only_first: false,
        mode,
        ..apply(config)
    }
}

#[tokio::test]
async fn a_first_config_is_stored_and_in_force_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = good(dir.path());
    let mut credentials = first.handle.credentials();
    credentials
        .wait_for(|now| now.as_ref().is_some_and(|now| now.client_ca.is_none()))
        .await
        .unwrap();
    let maintenance = credentials.borrow().clone().unwrap();
    let config = config("first");
    let dry = first
        .handle
        .apply(Apply {
            dry_run: true,
            ..apply(&config)
        })
        .await
        .unwrap();
    assert_eq!(dry.generation, 0);
    assert!(first.handle.config().is_none());
    assert_eq!(
        first.handle.apply(apply(&config)).await.unwrap().generation,
        1
    );
    credentials
        .wait_for(|now| now.as_ref().is_some_and(|now| now.client_ca.is_some()))
        .await
        .unwrap();
    assert_ne!(credentials.borrow().clone().unwrap(), maintenance);
    let id = first.handle.machine_id();
    let serving = credentials.borrow().clone().unwrap();
    drop(first);

    let second = good(dir.path());
    let mut credentials = second.handle.credentials();
    credentials.wait_for(Option::is_some).await.unwrap();
    assert_eq!(second.handle.machine_id(), id);
    assert_eq!(second.handle.config().unwrap().bytes, config);
    assert_eq!(second.handle.config().unwrap().source, "CN=admin");
    assert_eq!(credentials.borrow().clone().unwrap(), serving);
}

#[tokio::test]
async fn in_maintenance_only_the_first_config_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    let (one, two) = (config("one"), config("two"));
    node.handle.apply(apply(&one)).await.unwrap();
    let refused = node.handle.apply(apply(&two)).await.unwrap_err();
    assert!(matches!(refused, Error::FailedPrecondition(_)), "{refused}");
    // An administrator's second one is, and the same one again changes nothing.
    let admin = || Apply {
        only_first: false,
        ..apply(&two)
    };
    assert_eq!(node.handle.apply(admin()).await.unwrap().generation, 2);
    assert_eq!(node.handle.apply(admin()).await.unwrap().generation, 2);
}

#[tokio::test]
async fn a_config_made_of_another_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    let (one, two) = (config("one"), config("two"));
    let expecting = |config: &[u8], generation| Apply {
        only_first: false,
        expected_generation: Some(generation),
        ..apply(config)
    };
    let early = node.handle.apply(expecting(&one, 1)).await.unwrap_err();
    assert!(matches!(early, Error::Conflict(_)), "{early}");
    node.handle.apply(apply(&one)).await.unwrap();
    let applied = node.handle.apply(expecting(&two, 1)).await.unwrap();
    assert_eq!(applied.generation, 2);
    // A dry run says so too: its plan would be of another change.
    for dry_run in [true, false] {
        let late = Apply {
            dry_run,
            ..expecting(&one, 1)
        };
        let late = node.handle.apply(late).await.unwrap_err();
        assert!(
            late.to_string().contains("not generation 1 any more but 2"),
            "{late}"
        );
    }
    assert_eq!(node.handle.config().unwrap().bytes, two);
}

/// The name that the machine is kept to: `server-1` in the first config.
fn renamed(name: &str) -> Vec<u8> {
    let text = String::from_utf8(config(name)).unwrap();
    text.replace("server-1", name).into_bytes()
}

/// Waits until the machine is kept to this name.
async fn follows(node: &Node, name: &str) {
    let mut wanted = node.wanted.clone();
    let is = |wanted: &Wanted| {
        let hostname = wanted.machine.hostname.as_ref();
        hostname.is_some_and(|it| it.as_str() == name)
    };
    timeout(Duration::from_secs(60), wanted.wait_for(is))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_config_that_is_tried_is_stored_only_if_it_is_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    let tried = Mode::Try(Duration::from_secs(3600));
    let early = node.handle.apply(with(tried, &config("x"))).await;
    assert!(matches!(early, Err(Error::FailedPrecondition(_))));
    node.handle.apply(apply(&config("one"))).await.unwrap();
    let two = renamed("two");
    let applied = node.handle.apply(with(tried, &two)).await.unwrap();
    assert_eq!(applied.generation, 0);
    assert!(applied.until.is_some() && node.handle.pending().tried.is_some());
    follows(&node, "two").await;
    assert_eq!(node.handle.config().unwrap().generation, 1);
    // Not before the machine has followed.
    let generation = loop {
        match node.handle.confirm("CN=admin".into()).await {
            Ok(generation) => break generation,
            Err(Error::Unavailable(_)) => sleep(Duration::from_millis(20)).await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(generation, 2);
    assert_eq!(node.handle.config().unwrap().bytes, two);
    assert!(node.handle.pending().tried.is_none());
    let again = node.handle.confirm("CN=admin".into()).await;
    assert!(matches!(again, Err(Error::FailedPrecondition(_))));
}

#[tokio::test]
async fn a_trial_ends_by_itself_by_a_word_and_with_machined() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    node.handle.apply(apply(&config("one"))).await.unwrap();
    for length in [Duration::ZERO, Duration::from_secs(3601)] {
        let wrong = node
            .handle
            .apply(with(Mode::Try(length), &config("x")))
            .await;
        assert!(
            matches!(wrong, Err(Error::InvalidArgument(_))),
            "{length:?}"
        );
    }
    let short = Mode::Try(Duration::from_secs(10));
    node.handle
        .apply(with(short, &renamed("two")))
        .await
        .unwrap();
    follows(&node, "two").await;
    follows(&node, "server-1").await;
    assert!(node.handle.pending().tried.is_none());

    let long = Mode::Try(Duration::from_secs(3600));
    node.handle
        .apply(with(long, &renamed("three")))
        .await
        .unwrap();
    let reverted = node.handle.revert("CN=admin".into()).await.unwrap();
    assert_eq!((reverted.tried, reverted.staged), (true, None));
    follows(&node, "server-1").await;
    let again = node.handle.revert("CN=admin".into()).await;
    assert!(matches!(again, Err(Error::FailedPrecondition(_))));

    // The stored one again, and one that is stored, end it too.
    node.handle
        .apply(with(long, &renamed("four")))
        .await
        .unwrap();
    node.handle
        .apply(with(Mode::Auto, &config("one")))
        .await
        .unwrap();
    follows(&node, "server-1").await;
    node.handle
        .apply(with(long, &renamed("five")))
        .await
        .unwrap();
    node.handle
        .apply(with(Mode::Auto, &renamed("six")))
        .await
        .unwrap();
    follows(&node, "six").await;
    assert!(node.handle.pending().tried.is_none());

    node.handle
        .apply(with(long, &renamed("seven")))
        .await
        .unwrap();
    drop(node);
    let node = good(dir.path());
    follows(&node, "six").await;
}

#[tokio::test]
async fn a_staged_config_counts_from_the_next_boot_on() {
    let dir = tempfile::tempdir().unwrap();
    let state = || Ok(dir.path().join("state"));
    let node = good(dir.path());
    node.handle.apply(apply(&config("one"))).await.unwrap();
    let stage = |node: &Node, name: &str| {
        let apply = with(Mode::Staged, &renamed(name));
        let handle = node.handle.clone();
        async move { handle.apply(apply).await.unwrap().generation }
    };
    assert_eq!(stage(&node, "two").await, 2);
    assert_eq!(node.handle.config().unwrap().generation, 1);
    assert_eq!(node.handle.pending().staged.unwrap().generation, 2);
    drop(node);
    // machined is started again; then the machine is.
    let node = booted(dir.path(), state(), "boot-1");
    follows(&node, "server-1").await;
    assert_eq!(node.handle.pending().staged.unwrap().generation, 2);
    drop(node);
    let node = booted(dir.path(), state(), "boot-2");
    follows(&node, "two").await;
    assert_eq!(node.handle.config().unwrap().generation, 2);
    assert!(node.handle.pending().staged.is_none());

    assert_eq!(stage(&node, "three").await, 3);
    let reverted = node.handle.revert("CN=admin".into()).await.unwrap();
    assert_eq!((reverted.tried, reverted.staged), (false, Some(3)));
    drop(node);
    let node = booted(dir.path(), state(), "boot-3");
    follows(&node, "two").await;
}

#[tokio::test]
async fn a_config_with_errors_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    let orchestrator = |text: Vec<u8>| {
        let text = String::from_utf8(text)
            .unwrap()
            .replace("role: none", "role: server");
        format!("{text}orchestrator: {{name: k3s, token: correct-horse-battery}}\n").into_bytes()
    };
    let cases: [(&str, Vec<u8>, &str); 3] = [
        ("garbage", b"\x00\x01".to_vec(), ""),
        (
            "an unknown key",
            [config("x"), b"colour: red\n".to_vec()].concat(),
            "colour",
        ),
        (
            "an orchestrator that the image lacks",
            orchestrator(config("x")),
            "orchestrator.name",
        ),
    ];
    for (name, config, path) in cases {
        let Err(Error::InvalidConfig(diagnostics)) = node.handle.apply(apply(&config)).await else {
            panic!("{name} was taken")
        };
        let errors: Vec<_> = diagnostics
            .iter()
            .filter(|d| d.severity() == Severity::Error)
            .collect();
        assert!(!errors.is_empty(), "{name}");
        assert!(
            path.is_empty() || errors.iter().any(|d| d.path == path && d.line > 0),
            "{name}: {errors:?}"
        );
    }
    assert!(node.handle.config().is_none());
    assert!(!dir.path().join("state/config").exists());
}

#[tokio::test]
async fn without_state_no_config_is_taken_and_the_reason_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), Err("the disk is on fire".into()));
    let refused = node.handle.apply(apply(&config("x"))).await.unwrap_err();
    assert!(
        refused.to_string().contains("the disk is on fire"),
        "{refused}"
    );
    assert!(
        node.handle
            .apply(Apply {
                dry_run: true,
                ..apply(&config("x"))
            })
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_console_says_how_to_go_on_when_there_is_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    let mut credentials = node.handle.credentials();
    credentials.wait_for(Option::is_some).await.unwrap();
    let fingerprint = credentials.borrow().as_ref().unwrap().fingerprint();
    let address = crate::resource::Resource::new(
        "address",
        "eth0/10.0.2.15/24",
        crate::resource::Phase::Ready,
    );
    node.handle.resources().replace("address", vec![address]);
    let wanted = format!(
        "keelson: waiting for a config: osctl apply-config --insecure --cert-fingerprint {fingerprint} \
         --endpoint 10.0.2.15:50000 -f machine.yaml\r\n"
    );
    timeout(Duration::from_secs(5), async {
        while !fs::read_to_string(&node.console).unwrap().contains(&wanted) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let node = good(dir.path());
    let restart = node
        .handle
        .restart_service("sshd".into())
        .await
        .unwrap_err();
    assert!(matches!(restart, Error::NotFound(_)));
    assert!(matches!(
        node.handle.logs("sshd", None, false),
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        node.handle.kubeconfig(None).await,
        Err(Error::FailedPrecondition(_))
    ));
    let mut health = node.handle.health();
    health.wait_for(|checks| !checks.is_empty()).await.unwrap();
    assert_eq!(health.borrow()[0].name, "config");
}
