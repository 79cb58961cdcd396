//! The header of swap space: `union swap_header` of the kernel's include/linux/swap.h, as
//! mkswap(8) writes it.

use crate::Uuid;

/// Where the header's fields begin: before them is room for a boot loader.
const FIELDS: usize = 1024;
/// `version`, `last_page`, `nr_badpages`, each of 4 bytes.
const UUID: usize = FIELDS + 12;
const LABEL: usize = UUID + 16;
/// The last bytes of the first page.
const MAGIC: &[u8] = b"SWAPSPACE2";

/// The longest label.
pub const LONGEST_LABEL: usize = 16;

/// The first page of a space of so many bytes, for a kernel with pages of this size; what is
/// behind the last whole page is not used. `None` where the space is too small, has too many
/// pages for the format, or the label is too long.
pub fn header(page: usize, bytes: u64, uuid: Uuid, label: &str) -> Option<Vec<u8>> {
    let pages = bytes / u64::try_from(page).ok()?;
    // The header's own page is none to swap to; the kernel wants one beside it.
    let last = u32::try_from(pages.checked_sub(1)?).ok()?;
    if last == 0 || page < 4096 || label.len() > LONGEST_LABEL {
        return None;
    }
    let mut header = vec![0; page];
    header[FIELDS..][..4].copy_from_slice(&1u32.to_ne_bytes());
    header[FIELDS + 4..][..4].copy_from_slice(&last.to_ne_bytes());
    header[UUID..][..16].copy_from_slice(uuid.as_bytes());
    header[LABEL..][..label.len()].copy_from_slice(label.as_bytes());
    header[page - MAGIC.len()..].copy_from_slice(MAGIC);
    Some(header)
}

/// The label of what begins with this page; `None` where it is no swap space.
pub fn label(first_page: &[u8]) -> Option<&str> {
    let text = first_page.get(LABEL..LABEL + LONGEST_LABEL)?;
    if !first_page.ends_with(MAGIC) {
        return None;
    }
    let end = text.iter().position(|&byte| byte == 0);
    std::str::from_utf8(&text[..end.unwrap_or(text.len())]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `mkswap -L keelson-25% -U 00112233-4455-6677-8899-aabbccddeeff` (util-linux 2.38)
    /// writes to a file of 64 MiB, but for zeros.
    const MKSWAP: [(usize, &[u8]); 2] = [
        (
            0x400,
            b"\x01\0\0\0\xff\x3f\0\0\0\0\0\0\x00\x11\x22\x33\
              \x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x6b\x65\x65\x6c\
              \x73\x6f\x6e\x2d\x32\x35\x25",
        ),
        (0xff6, b"SWAPSPACE2"),
    ];

    #[cfg(target_endian = "little")]
    #[test]
    fn it_is_what_mkswap_writes() {
        let uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let mut want = vec![0; 4096];
        for (at, bytes) in MKSWAP {
            want[at..at + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(
            header(4096, 64 << 20, uuid, "keelson-25%").as_deref(),
            Some(&want[..])
        );
    }

    #[test]
    fn what_cannot_be_is_not_made() {
        let make = |page, bytes, label| header(page, bytes, Uuid::nil(), label);
        assert_eq!(make(4096, 4096, ""), None, "the header alone");
        assert_eq!(make(4096, 8191, ""), None, "no second whole page");
        assert!(make(4096, 8192, "").is_some());
        assert_eq!(make(4096, 4096 << 33, ""), None, "too many pages");
        assert_eq!(make(4096, 1 << 20, "seventeen letters"), None);
        assert_eq!(make(512, 1 << 20, ""), None);
    }

    proptest! {
        #[test]
        fn a_label_is_read_again(
            text in "[a-z0-9%-]{0,16}",
            pages in 2u64..1 << 32,
            page in prop_oneof![Just(4096usize), Just(16384), Just(65536)],
        ) {
            let made = header(page, pages * page as u64, Uuid::nil(), &text).unwrap();
            prop_assert_eq!(made.len(), page);
            prop_assert_eq!(label(&made), Some(text.as_str()));
        }

        #[test]
        fn whatever_there_is_is_looked_at_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            prop_assert_eq!(label(&bytes).is_some() && !bytes.ends_with(MAGIC), false);
        }
    }
}
