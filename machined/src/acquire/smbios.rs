//! The config in the SMBIOS tables: an OEM string `io.keelson.config:` and the
//! config in base64. The form of the tables is in DMTF's DSP0134, section 6.1.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What the string begins with.
const PREFIX: &[u8] = b"io.keelson.config:";

/// The structure type "OEM Strings".
const OEM_STRINGS: u8 = 11;

/// The structure type that ends the tables.
const END: u8 = 127;

/// The config in the tables, if there is one.
pub(super) fn config(tables: &[u8]) -> Result<Option<Vec<u8>>, base64::DecodeError> {
    let Some(text) = oem_strings(tables).find_map(|string| string.strip_prefix(PREFIX)) else {
        return Ok(None);
    };
    // Firmware and command lines may break or pad a long string.
    let text: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD.decode(text).map(Some)
}

/// All OEM strings. What is cut off or contradicts itself ends the walk.
fn oem_strings(tables: &[u8]) -> impl Iterator<Item = &[u8]> {
    structures(tables)
        .filter(|structure| structure.kind == OEM_STRINGS)
        .flat_map(|structure| structure.strings)
}

struct Structure<'a> {
    kind: u8,
    strings: Vec<&'a [u8]>,
}

fn structures(mut rest: &[u8]) -> impl Iterator<Item = Structure<'_>> {
    std::iter::from_fn(move || {
        let (&kind, &length) = (rest.first()?, rest.get(1)?);
        // The header alone is four bytes.
        if kind == END || length < 4 {
            return None;
        }
        let mut strings = Vec::new();
        let mut tail = rest.get(usize::from(length)..)?;
        // Strings end with a zero each, and the set with another; an empty set is two zeros.
        loop {
            let end = tail.iter().position(|byte| *byte == 0)?;
            let (string, after) = (&tail[..end], &tail[end + 1..]);
            tail = after;
            if string.is_empty() {
                if strings.is_empty() {
                    tail = tail.get(1..)?;
                }
                break;
            }
            strings.push(string);
        }
        rest = tail;
        Some(Structure { kind, strings })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One structure with `body` behind its header.
    fn structure(kind: u8, body: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(4 + body.len()).unwrap(), 0, 0];
        bytes.extend(body);
        for string in strings {
            bytes.extend(string.bytes().chain([0]));
        }
        bytes.extend(if strings.is_empty() {
            vec![0, 0]
        } else {
            vec![0]
        });
        bytes
    }

    fn tables(of: &[Vec<u8>]) -> Vec<u8> {
        let mut tables = of.concat();
        tables.extend(structure(END, &[], &[]));
        tables
    }

    #[test]
    fn the_config_among_other_structures() {
        let config_string = format!("io.keelson.config:{}", STANDARD.encode("kind: Machine\n"));
        let firmware = structure(0, &[0; 20], &["EDK II", "unknown"]);
        let bare = structure(32, &[0; 7], &[]);
        let cases = [
            (
                "there",
                tables(&[
                    firmware.clone(),
                    bare.clone(),
                    structure(11, &[2], &["x", &config_string]),
                ]),
                Some("kind: Machine\n"),
            ),
            ("none", tables(&[firmware.clone(), bare]), None),
            (
                "in another type",
                tables(&[structure(1, &[], &[&config_string])]),
                None,
            ),
            (
                "behind the end",
                [tables(&[]), structure(11, &[1], &[&config_string])].concat(),
                None,
            ),
        ];
        for (name, tables, wanted) in cases {
            assert_eq!(
                config(&tables).unwrap().as_deref(),
                wanted.map(str::as_bytes),
                "{name}"
            );
        }
    }

    #[test]
    fn bad_base64_is_an_error() {
        assert!(config(&tables(&[structure(11, &[1], &["io.keelson.config:!!"])])).is_err());
    }

    #[test]
    fn white_space_in_the_string_does_not_matter() {
        let tables = tables(&[structure(
            11,
            &[1],
            &["io.keelson.config:a2lu\nZDog TWFjaGluZQ=="],
        )]);
        assert_eq!(config(&tables).unwrap().unwrap(), b"kind: Machine");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ignored = config(&bytes);
        }

        #[test]
        fn a_config_survives_the_way_through_the_tables(written: Vec<u8>, before in "[a-z]{1,30}") {
            let string = format!("io.keelson.config:{}", STANDARD.encode(&written));
            let read = config(&tables(&[structure(0, &[1, 2], &[&before]), structure(11, &[2], &[&before, &string])]));
            prop_assert_eq!(read.unwrap().unwrap(), written);
        }
    }
}
