//! Which partition the boot loader came from, as it says itself in an EFI variable
//! (Boot Loader Interface: LoaderDevicePartUUID). Read only.

use keelson_disk::Uuid;

const VARIABLE: &str =
    "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The UUID of the loader's partition; nothing if there is no such loader.
pub(super) fn partition() -> Option<Uuid> {
    parse(&std::fs::read(VARIABLE).ok()?)
}

/// Four bytes of attributes, then the UUID as UTF-16LE text with a terminating zero.
fn parse(bytes: &[u8]) -> Option<Uuid> {
    let (pairs, _) = bytes.get(4..)?.as_chunks::<2>();
    let text: String = pairs
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0)
        .map(|unit| u8::try_from(unit).map_or('?', char::from))
        .collect();
    Uuid::try_parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        [7, 0, 0, 0].into_iter().chain(units).collect()
    }

    #[test]
    fn the_variable_holds_a_uuid() {
        let text = "0C5E6D3A-1B2C-4D5E-8F90-A1B2C3D4E5F6";
        assert_eq!(parse(&variable(text)), Uuid::try_parse(text).ok());
    }

    #[test]
    fn anything_else_is_nothing() {
        for bytes in [
            vec![],
            vec![7, 0, 0],
            variable(""),
            variable("not a uuid"),
            vec![0xff; 99],
        ] {
            assert_eq!(parse(&bytes), None, "{bytes:?}");
        }
    }
}
