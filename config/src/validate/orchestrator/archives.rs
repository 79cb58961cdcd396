//! The rules of `orchestrator.images`: where archives of images are fetched from.

use super::super::{checked, first_of, items};
use crate::{
    ImageArchive,
    document::ImagesSection,
    read::{Given, Located, Reader},
    tree::quote,
    value::Wrong,
};
use std::collections::BTreeMap;

/// How the names of archives end that K3s imports: <https://docs.k3s.io/installation/airgap>.
const ENDINGS: [&str; 5] = [".tar", ".tar.zst", ".tar.gz", ".tar.lz4", ".tar.bz2"];

pub(super) fn images(
    reader: &mut Reader<'_>,
    written: &Given<Vec<Located<ImagesSection>>>,
) -> Vec<ImageArchive> {
    let mut seen = BTreeMap::new();
    let mut images = Vec::new();
    for archive in items(written) {
        let (Some(place), Some(digest)) = (archive.value.url.is(), archive.value.sha256.is())
        else {
            continue;
        };
        let place = checked(reader, place, |text| url(text));
        let Some(sha256) = checked(reader, digest, |text| sha256(text)) else {
            continue;
        };
        if let Some((url, ending)) = place
            && first_of(reader, &mut seen, sha256.clone(), digest.at)
        {
            images.push(ImageArchive {
                url,
                sha256,
                ending,
            });
        }
    }
    images
}

fn url(text: &str) -> Result<(String, &'static str), Wrong> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let (host, path) = match rest.and_then(|rest| rest.split_once('/')) {
        Some((host, path)) if !host.is_empty() => (host, path),
        _ => {
            return Err(
                Wrong::new(format!("{} is not the URL of a file", quote(text)))
                    .hint("it looks like https://files.example.com/images.tar.zst"),
            );
        }
    };
    if host.contains('@') {
        let hint = "it would be shown; let the machine's address do, or a path that is not guessed";
        return Err(Wrong::new("the URL holds a password").hint(hint));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Wrong::new("a URL has no blanks").hint("write %20 for one"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    match ENDINGS
        .into_iter()
        .rev()
        .find(|ending| path.ends_with(ending))
    {
        Some(ending) => Ok((text.to_owned(), ending)),
        None => Err(Wrong::new(
            "the orchestrator would not know that this is an archive of images",
        )
        .hint(format!("the name ends with one of {}", ENDINGS.join(", ")))),
    }
}

fn sha256(text: &str) -> Result<String, Wrong> {
    let digits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match digits {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err(Wrong::new("a SHA-256 is 64 hexadecimal digits").hint("`sha256sum FILE` prints it"))
        }
    }
}
