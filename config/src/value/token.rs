//! The token that joins machines to a cluster.

use super::Wrong;

/// What joins machines to a cluster: a password, or `K10<hash>::<user>:<password>`
/// with the SHA-256 of the cluster's CA.
pub(crate) fn token(text: &str) -> Result<(), Wrong> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Wrong::new("the token holds white space")
            .hint("a token is one word; check for a line break in it"));
    }
    let password = match text
        .strip_prefix("K10")
        .and_then(|rest| rest.split_once("::"))
    {
        Some((hash, rest)) => {
            if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(
                    Wrong::new("the hash in the token is not 64 hexadecimal digits")
                        .hint("the form is K10<hash>::server:<password>; was it copied whole?"),
                );
            }
            rest.split_once(':').map_or(rest, |(_, password)| password)
        }
        None => text,
    };
    let length = password.chars().count();
    if length < 16 {
        return Err(
            Wrong::new(format!("the token has {length} characters, fewer than 16"))
                .hint("whoever guesses it owns the cluster; `osctl gen secrets` makes a good one"),
        );
    }
    Ok(())
}
