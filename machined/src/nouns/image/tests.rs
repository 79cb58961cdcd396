//! The plan of archives of images, and fetching them from a server on loopback.

use super::*;
use crate::{fetch::tests::server, store::digest};
use keelson_config::{Orchestrator, Role, Secret};

fn archive(letter: char) -> ImageArchive {
    ImageArchive {
        url: format!("https://files.example.com/a/{letter}.tar.zst?token=x"),
        sha256: String::from_iter([letter; 64]),
        ending: ".tar.zst",
    }
}

fn machine(images: Vec<ImageArchive>) -> Machine {
    Machine {
        role: Role::Agent,
        orchestrator: Some(Orchestrator {
            name: "k3s".into(),
            token: Secret::new("t".into()),
            server: None,
            datastore: None,
            images,
            manifests: BTreeMap::new(),
            settings: BTreeMap::new(),
        }),
        ..Machine::maintenance()
    }
}

fn seen(stand: Stand, since: Instant) -> Seen {
    let again_at = match &stand {
        Stand::Failed(_, at) => Some(*at + FIRST_PAUSE),
        Stand::Under { .. } => None,
    };
    Seen {
        stand,
        since,
        again_at,
    }
}

/// Shows: orchestrator.images.url, orchestrator.images.sha256
#[test]
fn each_case_has_its_steps() {
    let now = Instant::now() + Duration::from_secs(3600);
    let under = || {
        let (read, length) = (3 << 20, Some(9 << 20));
        seen(Stand::Under { read, length }, now)
    };
    let failed = |ago: u64| {
        let at = now - Duration::from_secs(ago);
        seen(Stand::Failed("it is not there".into(), at), at)
    };
    let (a, b) = (name(&archive('a')), name(&archive('b')));
    let delete = format!("delete {b}");
    let stop = format!("stop fetching {b}");
    type Case<'a> = (
        &'a str,
        Vec<&'a String>,
        Vec<(&'a String, Seen)>,
        Vec<&'a str>,
    );
    let cases: Vec<Case<'_>> = vec![
        ("it is not there", vec![], vec![], vec!["fetch a.tar.zst"]),
        ("it is there", vec![&a], vec![], vec![]),
        ("it is under way", vec![], vec![(&a, under())], vec![]),
        ("it has just failed", vec![], vec![(&a, failed(1))], vec![]),
        (
            "it failed a while ago",
            vec![],
            vec![(&a, failed(9))],
            vec!["fetch a.tar.zst"],
        ),
        ("another is not wanted", vec![&a, &b], vec![], vec![&delete]),
        (
            "nor is one under way",
            vec![&a],
            vec![(&b, under())],
            vec![&stop],
        ),
    ];
    let want = machine(vec![archive('a')]);
    for (name, files, stands, wanted) in cases {
        let mut have = Have {
            now: Some(now),
            mounted: true,
            files: files.into_iter().cloned().collect(),
            stands: stands
                .into_iter()
                .map(|(name, seen)| (name.clone(), seen))
                .collect(),
        };
        let steps: Vec<String> = plan(&have, &want).iter().map(ToString::to_string).collect();
        assert_eq!(steps, wanted, "{name}");
        have.mounted = false;
        assert!(plan(&have, &want).is_empty(), "{name}");
    }
}

#[test]
fn the_orchestrator_waits_for_what_is_under_way_and_not_for_what_cannot_be_had() {
    let now = Instant::now();
    let later = now + PATIENCE;
    let under = Stand::Under {
        read: 3 << 20,
        length: Some(9 << 20),
    };
    let failed = |at| Stand::Failed("no route".into(), at);
    let cases = [
        (None, Phase::Pending, "it is to be fetched"),
        (Some(under), Phase::Pending, "3 of 9 MiB are here"),
        (Some(failed(now)), Phase::Pending, "tried again: no route"),
        (Some(failed(later)), Phase::Failed, "tried again: no route"),
    ];
    for (stand, phase, message) in cases {
        let mut have = Have {
            mounted: true,
            ..Have::default()
        };
        if let Some(stand) = stand {
            have.stands.insert(name(&archive('a')), seen(stand, now));
        }
        let shown = publish(&have, &machine(vec![archive('a')]));
        assert_eq!(
            (shown[0].phase, shown[0].message.as_str()),
            (phase, message)
        );
        assert_eq!(shown[0].name, "aaaaaaaaaaaa");
        assert_eq!(shown[0].spec.get("file"), Some(&"a.tar.zst".into()));
    }
}

/// Where images go, and the noun that puts them there.
fn images() -> (tempfile::TempDir, PathBuf, Images, Wake) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("agent/images");
    let wake = Wake::default();
    let images = Images::new(Some(directory.clone()), wake.clone());
    (root, directory, images, wake)
}

/// Takes the steps that are missing, as if DATA were mounted.
async fn pass(images: &mut Images, want: &Machine) -> Have {
    let mut have = images.observe(want).await.unwrap();
    have.mounted = true;
    for step in plan(&have, want) {
        images.apply(&step).await.unwrap();
    }
    have
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_fetched_once_and_goes_with_the_config() {
    let (_root, directory, mut images, wake) = images();
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let (url, served) = server(body.clone(), 2_000_000);
    let archive = ImageArchive {
        url,
        sha256: digest(&body),
        ending: ".tar",
    };
    // What an earlier machined did not finish, and what is not ours.
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(".old.0.part"), "half").unwrap();
    fs::write(directory.join("theirs.tar"), "theirs").unwrap();
    let want = machine(vec![archive.clone()]);
    pass(&mut images, &want).await;
    let place = directory.join(format!("keelson-{}.tar", archive.sha256));
    while !place.exists() {
        wake.notified().await;
    }
    assert!(fs::read(&place).unwrap() == body, "it is not what was sent");
    // It broke off once, and is not asked for again.
    assert_eq!(served.join().unwrap().len(), 2);
    let have = pass(&mut images, &want).await;
    assert_eq!((have.files.len(), have.stands.len()), (1, 0));
    pass(&mut images, &machine(Vec::new())).await;
    let mut left: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [".cache.json", "theirs.tar"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_the_config_says_is_not_kept() {
    let (_root, directory, mut images, wake) = images();
    let (url, served) = server(b"something else".to_vec(), 100);
    let mut archive = archive('a');
    archive.url = url;
    let want = machine(vec![archive]);
    pass(&mut images, &want).await;
    wake.notified().await;
    served.join().unwrap();
    let have = images.observe(&want).await.unwrap();
    let (_, seen) = have.stands.first_key_value().unwrap();
    let Stand::Failed(why, _) = &seen.stand else {
        panic!("{seen:?}");
    };
    assert!(why.contains(&digest(b"something else")), "{why}");
    let left: Vec<_> = fs::read_dir(&directory).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    // It is tried again, later.
    assert!(Noun::deadline(&images).unwrap() > Instant::now());
}

#[tokio::test]
async fn a_machine_without_an_orchestrator_has_none() {
    let mut images = Images::new(None, Wake::default());
    let want = Machine::maintenance();
    let have = images.observe(&want).await.unwrap();
    assert!(plan(&have, &want).is_empty() && publish(&have, &want).is_empty());
}
