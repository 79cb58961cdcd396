//! The pinned K3s release: what `rootfs/k3s.yaml` locks, and how its executable gets into the
//! cache. A file counts only if its digest is the locked one; one that is not locked yet must be
//! the one that the release's own list of sums names.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Error;
use super::unpack::Keep;
use crate::arch::Arch;
use crate::packages::{bytes_sha256, file_sha256};
use crate::report::Step;

/// More than any release has; K3s keeps its executable below 80 MiB.
const LARGEST: u64 = 256 << 20;

/// `rootfs/k3s.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    pub(super) version: String,
    url: String,
    architectures: BTreeMap<Arch, File>,
    keep: Vec<Kept>,
}

/// The release's executable for an architecture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file: String,
    sums: String,
    sha256: Option<String>,
}

/// A path of the payload that stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    path: String,
    #[serde(default)]
    optional: bool,
    #[serde(rename = "why")]
    _why: String,
}

/// An executable in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    /// True if the lock holds no digest of it yet.
    pub(super) unlocked: bool,
}

impl Lock {
    /// What stays of the payload.
    pub(super) fn keep(&self) -> Keep {
        let paths = |optional: bool| {
            self.keep
                .iter()
                .filter(|kept| kept.optional == optional)
                .map(|kept| kept.path.clone())
                .collect()
        };
        Keep {
            needed: paths(false),
            optional: paths(true),
        }
    }

    fn url(&self, file: &str) -> String {
        self.url
            .replace("{version}", &self.version.replace('+', "%2B"))
            .replace("{file}", file)
    }

    /// The text of the lock with a digest added; everything else in it stays as it is.
    pub(super) fn with_digest(&self, text: &str, arch: Arch, sha256: &str) -> String {
        let Some(file) = self.architectures.get(&arch) else {
            return text.to_string();
        };
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.push(line.to_string());
            if line.trim() == format!("sums: {}", file.sums) {
                let indent = &line[..line.len() - line.trim_start().len()];
                lines.push(format!("{indent}sha256: {sha256}"));
            }
        }
        lines.join("\n") + "\n"
    }
}

/// Brings the release's executable into the cache, or finds it there.
pub(super) fn fetch(
    lock: &Lock,
    arch: Arch,
    cache: &Path,
    offline: bool,
    step: &Step<'_>,
) -> Result<Fetched, Error> {
    let file = lock
        .architectures
        .get(&arch)
        .ok_or(Error::NoArchitecture(arch.name()))?;
    let folder = cache.join("k3s").join(&lock.version);
    let path = folder.join(&file.file);
    if let Some(wanted) = &file.sha256
        && path.exists()
    {
        let found = file_sha256(&path).map_err(|error| unreadable(&path, error))?;
        if found == *wanted {
            return Ok(Fetched {
                path,
                sha256: found,
                unlocked: false,
            });
        }
    }
    let url = lock.url(&file.file);
    if offline {
        return Err(Error::NotCached(url));
    }
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    step.detail(&file.file);
    let client = client();
    let sums_url = lock.url(&file.sums);
    let sums = String::from_utf8_lossy(&get(&client, &sums_url, 1 << 20, step)?).into_owned();
    let listed = sum_of(&sums, &file.file).ok_or_else(|| Error::NoSum {
        url: sums_url.clone(),
        file: file.file.clone(),
    })?;
    let bytes = get(&client, &url, LARGEST, step)?;
    let found = bytes_sha256(&bytes);
    let differs = |authority: &str, wanted: &str| Error::Digest {
        file: url.clone(),
        found: found.clone(),
        authority: authority.to_string(),
        wanted: wanted.to_string(),
    };
    if let Some(wanted) = file.sha256.as_deref().filter(|wanted| *wanted != found) {
        return Err(differs("rootfs/k3s.yaml", wanted));
    }
    if listed != found {
        return Err(differs(&sums_url, &listed));
    }
    let mut part = tempfile::NamedTempFile::new_in(&folder).map_err(Error::io(&folder))?;
    part.write_all(&bytes).map_err(Error::io(&path))?;
    part.persist(&path).map_err(|error| Error::Io {
        path: path.clone(),
        source: error.error,
    })?;
    Ok(Fetched {
        path,
        sha256: found,
        unlocked: file.sha256.is_none(),
    })
}

fn unreadable(path: &Path, error: crate::packages::Error) -> Error {
    Error::Io {
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    }
}

/// A client that gives up soon where nothing answers.
fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_resolve(Some(Duration::from_secs(5)))
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(15)))
        .timeout_global(Some(Duration::from_secs(20 * 60)))
        .user_agent("keelson-image-builder")
        .build()
        .new_agent()
}

fn get(client: &ureq::Agent, url: &str, largest: u64, step: &Step<'_>) -> Result<Vec<u8>, Error> {
    let unreachable = |reason: String| Error::Unreachable {
        url: url.to_string(),
        reason,
    };
    let response = client
        .get(url)
        .call()
        .map_err(|error| unreachable(error.to_string()))?;
    let length = response.body().content_length();
    if let Some(length) = length {
        if length > largest {
            return Err(unreachable(format!("it is {length} bytes long")));
        }
        step.length(length);
    }
    let mut reader = response.into_body().into_reader().take(largest);
    let mut bytes = Vec::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let read = reader
            .read(&mut block)
            .map_err(|error| unreachable(error.to_string()))?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&block[..read]);
        step.advance(read as u64);
    }
    if length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(unreachable("it ended too early".to_string()));
    }
    Ok(bytes)
}

/// The digest that a list in the form of sha256sum(1) gives for a file.
fn sum_of(list: &str, file: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let (sum, name) = line.split_once(char::is_whitespace)?;
        let name = name.trim_start().trim_start_matches('*');
        let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        (name == file && is_sum).then(|| sum.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use std::io::BufRead as _;
    use std::net::TcpListener;

    const LOCK: &str = include_str!("../../../rootfs/k3s.yaml");

    fn project_lock() -> Lock {
        crate::rootfs::recipe::parse(LOCK).expect("the project's lock")
    }

    /// A server on the loopback that answers each path with a body, else 404.
    fn serve(files: Vec<(&'static str, Vec<u8>)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = std::io::BufReader::new(stream);
                let mut request = String::new();
                reader.read_line(&mut request).expect("a request");
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
                    header.clear();
                }
                let path = request.split(' ').nth(1).unwrap_or_default().to_string();
                let body = files.iter().find(|(name, _)| path.ends_with(name));
                let (code, body) = match body {
                    Some((_, body)) => ("200 OK", body.clone()),
                    None => ("404 Not Found", Vec::new()),
                };
                let mut stream = reader.into_inner();
                let head = format!(
                    "HTTP/1.1 {code}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).expect("answered");
                stream.write_all(&body).expect("answered");
            }
        });
        format!("http://{address}/{{version}}/{{file}}")
    }

    fn lock(url: String, sha256: Option<String>) -> Lock {
        let mut lock = project_lock();
        lock.url = url;
        if let Some(file) = lock.architectures.get_mut(&Arch::Amd64) {
            file.sha256 = sha256;
        }
        lock
    }

    fn fetch_from(lock: &Lock, offline: bool) -> Result<Fetched, Error> {
        let cache = tempfile::tempdir().expect("temporary folder");
        let report = Report::new(true);
        let step = report.step("test");
        fetch(lock, Arch::Amd64, cache.path(), offline, &step)
    }

    fn listing(body: &[u8]) -> Vec<u8> {
        format!("{}  k3s\n", bytes_sha256(body)).into_bytes()
    }

    #[test]
    fn the_projects_lock_is_whole() {
        let lock = project_lock();
        for arch in [Arch::Amd64, Arch::Arm64] {
            let file = &lock.architectures[&arch];
            assert_eq!(file.sha256.as_ref().map(String::len), Some(64));
        }
        assert_eq!(
            lock.url("k3s"),
            format!(
                "https://github.com/k3s-io/k3s/releases/download/{}/k3s",
                lock.version.replace('+', "%2B")
            )
        );
        assert!(lock.keep().needed.contains(&"bin/k3s".to_string()));
    }

    #[test]
    fn a_locked_release_is_fetched_and_kept() {
        let body = b"executable".to_vec();
        let url = serve(vec![("/k3s", body.clone()), (".txt", listing(&body))]);
        let lock = lock(url, Some(bytes_sha256(&body)));
        let cache = tempfile::tempdir().expect("temporary folder");
        let report = Report::new(true);
        let step = report.step("test");
        let fetched = fetch(&lock, Arch::Amd64, cache.path(), false, &step).expect("fetched");
        assert!(!fetched.unlocked);
        let again = fetch(&lock, Arch::Amd64, cache.path(), true, &step).expect("cached");
        assert_eq!(again, fetched);
    }

    #[test]
    fn a_release_that_changed_is_refused() {
        let body = b"executable".to_vec();
        let wanted = "00".repeat(32);
        let url = serve(vec![("/k3s", body.clone()), (".txt", listing(&body))]);
        match fetch_from(&lock(url, Some(wanted.clone())), false) {
            Err(Error::Digest {
                authority,
                wanted: said,
                ..
            }) => {
                assert_eq!(authority, "rootfs/k3s.yaml");
                assert_eq!(said, wanted);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unlocked_release_must_be_the_one_its_own_list_names() {
        let body = b"executable".to_vec();
        let url = serve(vec![("/k3s", body.clone()), (".txt", listing(&body))]);
        let fetched = fetch_from(&lock(url, None), false).expect("listed");
        assert!(fetched.unlocked);
        let url = serve(vec![("/k3s", body), (".txt", listing(b"another"))]);
        assert!(matches!(
            fetch_from(&lock(url, None), false),
            Err(Error::Digest { .. })
        ));
    }

    #[test]
    fn out_of_reach_is_its_own_error() {
        // A port that was free a moment ago: nobody listens.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let error = fetch_from(&lock(format!("http://{address}/{{file}}"), None), false)
            .expect_err("nobody listens");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        assert!(super::super::is_unreachable(&anyhow::Error::new(error)));
        let error = fetch_from(&lock(serve(Vec::new()), None), false).expect_err("404");
        assert!(super::super::is_unreachable(&anyhow::Error::new(error)));
    }

    #[test]
    fn offline_fetches_nothing() {
        let result = fetch_from(&lock("http://127.0.0.1:1/{file}".to_string(), None), true);
        assert!(matches!(result, Err(Error::NotCached(_))));
    }

    #[test]
    fn a_digest_is_added_to_the_text_as_it_is() {
        let text = "# remark\nversion: v1\narchitectures:\n  amd64:\n    file: k3s\n    \
                    sums: sha256sum-amd64.txt\n  arm64:\n    sums: sha256sum-arm64.txt\n";
        let got = project_lock().with_digest(text, Arch::Amd64, "abcd");
        assert_eq!(
            got,
            "# remark\nversion: v1\narchitectures:\n  amd64:\n    file: k3s\n    \
             sums: sha256sum-amd64.txt\n    sha256: abcd\n  arm64:\n    sums: sha256sum-arm64.txt\n"
        );
    }

    #[test]
    fn lists_of_sums() {
        let sum = "ab".repeat(32);
        let list = format!(
            "{sum}  k3s\n{}  k3s-images.tar\nnot a line\n",
            "cd".repeat(32)
        );
        assert_eq!(sum_of(&list, "k3s"), Some(sum));
        assert_eq!(sum_of(&list, "k3s-arm64"), None);
        assert_eq!(sum_of("abc  k3s", "k3s"), None);
    }
}
