//! Tests of the bundle: what is cut off, flipped, or hostile is refused, and the golden file is read.

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;

use super::*;
use crate::verity;
use crate::version::Version;

const GOLDEN: &[u8] = include_bytes!("../../testdata/bundle-1.bundle");
const KEY_A: &str = include_str!("../../testdata/test-only-a.key");
const KEY_B: &str = include_str!("../../testdata/test-only-b.key");
const HEADER: usize = 32;
const SIGNATURE: usize = 72;

fn key(text: &str) -> SigningKey {
    SigningKey::from_pem(text).unwrap()
}

fn trusting(keys: &[&str]) -> Keys {
    keys.iter().map(|text| key(text).public()).collect()
}

/// A UKI, and a root image of three blocks with its superblock and tree.
fn content() -> (Vec<u8>, Vec<u8>, verity::RootSpec) {
    let uki = (0..300u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut image: Vec<u8> = (0..3 * verity::BLOCK).map(|n| (n / 9) as u8).collect();
    let data = image.clone();
    let spec = verity::build(
        &mut data.as_slice(),
        3,
        [7; 32],
        &mut Cursor::new(&mut image),
    );
    (uki, image, spec.unwrap())
}

fn manifest(root: verity::RootSpec, uki: Uki, image: Image) -> Manifest {
    Manifest {
        format_version: FORMAT,
        version: "0.2.0-rc.1".parse().unwrap(),
        arch: "amd64".into(),
        variant: "cloud".into(),
        root,
        uki,
        image,
        orchestrator: Some(Orchestrator {
            name: "k3s".into(),
            version: "v1.36.3+k3s1".into(),
        }),
        security_floor: "0.1.0".parse().unwrap(),
        build_time: 1_790_000_000,
    }
}

/// A bundle of [`content`], its manifest changed by `change`; and the packed image in it.
fn made(keys: &[&str], change: impl FnOnce(&mut Manifest)) -> (Vec<u8>, Vec<u8>) {
    let (uki, image, root) = content();
    let mut packed = Vec::new();
    let image = pack(&mut image.as_slice(), 19, &mut packed).unwrap();
    let mut manifest = manifest(root, digest(&mut uki.as_slice()).unwrap(), image);
    change(&mut manifest);
    let keys: Vec<SigningKey> = keys.iter().map(|text| key(text)).collect();
    let mut bundle = Vec::new();
    write(
        &manifest,
        &keys,
        &mut uki.as_slice(),
        &mut packed.as_slice(),
        &mut bundle,
    )
    .unwrap();
    (bundle, packed)
}

/// A bundle with this head and the golden one's parts.
fn with_head(manifest: &[u8], signers: &[&str]) -> Vec<u8> {
    let signatures = signers.iter().map(|text| {
        let key = key(text);
        (key.public().id(), key.sign(manifest))
    });
    let head = Head::new(manifest.to_vec(), signatures.collect());
    let parts = &GOLDEN[Head::read(&mut &*GOLDEN).unwrap().bytes() as usize..];
    [&head.to_bytes(), parts].concat()
}

/// The golden manifest with one text replaced, signed again.
fn edited(from: &str, to: &str) -> Vec<u8> {
    let head = Head::read(&mut &*GOLDEN).unwrap();
    let text = String::from_utf8(head.manifest_bytes().to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    with_head(text.replacen(from, to, 1).as_bytes(), &[KEY_A])
}

#[test]
fn format_1_is_read_for_ever() {
    let (uki, image, root) = content();
    let (mut found_uki, mut found_image) = (Vec::new(), Vec::new());
    let bundle = Bundle::open(GOLDEN, &trusting(&[KEY_A])).unwrap();
    assert_eq!(bundle.signed_by(), [key(KEY_A).public().id()]);
    assert_eq!(bundle.bytes(), GOLDEN.len() as u64);
    assert_eq!(bundle.manifest().root, root);
    let bundle = bundle.uki(&mut found_uki).unwrap();
    let bundle = bundle.image(&mut found_image).unwrap();
    let manifest = bundle.finish().unwrap();
    assert_eq!((found_uki, found_image), (uki, image));
    assert_eq!(manifest.version.to_string(), "0.2.0-rc.1");
    let head = Head::read(&mut &*GOLDEN).unwrap();
    insta::assert_snapshot!(std::str::from_utf8(head.manifest_bytes()).unwrap());
}

#[test]
fn format_1_is_written_as_ever() {
    let golden = Head::read(&mut &*GOLDEN).unwrap();
    let manifest = golden.manifest().unwrap();
    // The packed image is the golden one's: a newer zstd may pack otherwise.
    let packed = &GOLDEN[GOLDEN.len() - manifest.image.bytes as usize..];
    let mut bundle = Vec::new();
    let keys = [key(KEY_A), key(KEY_B)];
    let (uki, ..) = content();
    write(
        &manifest,
        &keys,
        &mut uki.as_slice(),
        &mut &*packed,
        &mut bundle,
    )
    .unwrap();
    assert!(bundle == GOLDEN);
}

#[test]
#[ignore = "makes the golden file of a new format; format 1 has its own"]
fn make_the_golden_file() {
    let name = format!("testdata/bundle-{FORMAT}.bundle");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut file = std::fs::File::create_new(path).unwrap();
    file.write_all(&made(&[KEY_A, KEY_B], |_| ()).0).unwrap();
}

#[test]
fn one_trusted_key_is_enough() {
    let id = |text| key(text).public().id();
    for (trusted, want) in [
        (&[KEY_A][..], vec![id(KEY_A)]),
        (&[KEY_B], vec![id(KEY_B)]),
        (&[KEY_B, KEY_A], vec![id(KEY_A), id(KEY_B)]),
    ] {
        let bundle = Bundle::open(GOLDEN, &trusting(trusted)).unwrap();
        assert_eq!(bundle.signed_by(), want);
    }
    let other = key(&SigningKey::generate().unwrap()).public();
    for trusted in [Keys::default(), Keys::from_iter([other])] {
        let error = Bundle::open(GOLDEN, &trusted).unwrap_err();
        let Error::NoTrustedKey { signed, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(signed, [id(KEY_A), id(KEY_B)]);
    }
    let head = Head::read(&mut &*GOLDEN).unwrap();
    let unsigned = with_head(head.manifest_bytes(), &[]);
    assert!(matches!(
        Bundle::open(unsigned.as_slice(), &trusting(&[KEY_A])),
        Err(Error::Unsigned)
    ));
}

#[test]
fn a_wrong_signature_by_a_trusted_key_spoils_the_bundle() {
    let mut bundle = GOLDEN.to_vec();
    let manifest = Head::read(&mut &*GOLDEN).unwrap().manifest_bytes().len();
    bundle[HEADER + manifest + 20] ^= 1;
    repair(&mut bundle);
    let error = verify(bundle.as_slice(), &trusting(&[KEY_A, KEY_B])).unwrap_err();
    assert!(matches!(error, Error::BadSignature(id) if id == key(KEY_A).public().id()));
}

/// Makes the head's checksum right again, as an attacker would.
fn repair(bundle: &mut [u8]) {
    let (signatures, manifest) = (
        u16::from(bundle[10]),
        u32::from_le_bytes(bundle[12..16].try_into().unwrap()),
    );
    let end = HEADER + manifest as usize + usize::from(signatures) * SIGNATURE;
    bundle[16..20].fill(0);
    let crc = crc32fast::hash(&bundle[..end.min(bundle.len())]);
    bundle[16..20].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn cut_anywhere_it_says_where() {
    let manifest = Head::read(&mut &*GOLDEN).unwrap().manifest_bytes().len();
    let signatures = HEADER + manifest;
    let uki = signatures + 2 * SIGNATURE;
    let image = uki + 300;
    let keys = trusting(&[KEY_A]);
    for length in 0..GOLDEN.len() {
        let want = match length {
            n if n < HEADER => Part::Header,
            n if n < signatures => Part::Manifest,
            n if n < uki => Part::Signatures,
            n if n < image => Part::Uki,
            _ => Part::Image,
        };
        let error = verify(&GOLDEN[..length], &keys).unwrap_err();
        assert!(
            matches!(error, Error::Truncated(part) if part == want),
            "{length}: {error:?}"
        );
    }
}

#[test]
fn one_flipped_bit_is_refused_wherever_it_is() {
    let keys = trusting(&[KEY_A, KEY_B]);
    for bit in 0..GOLDEN.len() * 8 {
        let mut bad = GOLDEN.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(bad.as_slice(), &keys).is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_forged_with_a_right_checksum_is_refused_too() {
    let keys = trusting(&[KEY_A, KEY_B]);
    let (one, _) = made(&[KEY_A], |_| ());
    for byte in 20..one.len() {
        let mut bad = one.clone();
        bad[byte] ^= 0x10;
        repair(&mut bad);
        assert!(verify(bad.as_slice(), &keys).is_err(), "byte {byte}");
    }
}

#[test]
fn damage_is_told_by_its_part() {
    let keys = trusting(&[KEY_A]);
    let uki = Head::read(&mut &*GOLDEN).unwrap().bytes() as usize;
    for (at, want) in [
        (3, None),
        (HEADER + 5, Some(Part::Header)),
        (uki - 1, Some(Part::Header)),
        (uki, Some(Part::Uki)),
        (uki + 299, Some(Part::Uki)),
        (uki + 300, Some(Part::Image)),
        (GOLDEN.len() - 1, Some(Part::Image)),
    ] {
        let mut bad = GOLDEN.to_vec();
        bad[at] ^= 1;
        match (verify(bad.as_slice(), &keys).unwrap_err(), want) {
            (Error::Damaged(part), Some(want)) if part == want => {}
            (Error::NotABundle, None) => {}
            (error, _) => panic!("{at}: {error:?}"),
        }
    }
}

#[test]
fn what_a_manifest_may_not_say() {
    let keys = trusting(&[KEY_A]);
    for (from, to, want) in [
        (
            "\"formatVersion\": 1",
            "\"formatVersion\": 2",
            "only format 1 is known",
        ),
        ("\"formatVersion\": 1,", "", "missing field `formatVersion`"),
        ("0.2.0-rc.1", "0.2", "\"0.2\" is not a version"),
        ("\"amd64\"", "\"amd 64\"", "arch is no plain word"),
        ("\"cloud\"", "\"\\u001b[31m\"", "variant is no plain word"),
        ("\"k3s\"", "\"\"", "orchestrator.name is no plain word"),
        (
            "\"bytes\": 300",
            "\"bytes\": 536870913",
            "UKI has 536870913 bytes, and 536870912 are the most",
        ),
        ("\"bytes\": 300", "\"bytes\": 0", "the UKI is empty"),
        ("\"bytes\": 300", "\"bytes\": -1", "invalid value"),
        (
            "\"unpackedBytes\": 20480",
            "\"unpackedBytes\": 20481",
            "has 20480 bytes with its hash tree, not 20481",
        ),
        (
            "\"dataBlocks\": 3",
            "\"dataBlocks\": 18446744073709551615",
            "with its hash tree",
        ),
        (
            "\"dataBlocks\": 3",
            "\"dataBlocks\": 3, \"dataBlocks\": 3",
            "duplicate field",
        ),
        ("\"salt\": \"07", "\"salt\": \"0", "64 hex digits"),
    ] {
        let error = verify(edited(from, to).as_slice(), &keys).unwrap_err();
        assert!(error.to_string().contains(want), "{to}: {error}");
    }
}

#[test]
fn a_later_builder_may_say_more() {
    let more = edited("\"arch\"", "\"colour\": {\"a\": [1]}, \"arch\"");
    let manifest = verify(more.as_slice(), &trusting(&[KEY_A])).unwrap();
    assert_eq!(manifest.arch, "amd64");
    let none = edited(
        "\"name\": \"k3s\",\n    \"version\": \"v1.36.3+k3s1\"\n  }",
        "\"name\": \"k3s\", \"version\": \"v2\", \"x\": 1}",
    );
    assert!(verify(none.as_slice(), &trusting(&[KEY_A])).is_ok());
    let (none, _) = made(&[KEY_A], |manifest| {
        manifest.orchestrator = None;
        manifest.security_floor = Version::LOWEST;
    });
    let manifest = verify(none.as_slice(), &trusting(&[KEY_A])).unwrap();
    assert_eq!(manifest.orchestrator, None);
}

#[test]
fn sizes_are_bounded_before_anything_is_allocated() {
    let head = |signatures: u16, manifest: u32| {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(b"KEELBNDL");
        header[8] = 1;
        header[10..12].copy_from_slice(&signatures.to_le_bytes());
        header[12..16].copy_from_slice(&manifest.to_le_bytes());
        Head::read(&mut header.as_slice()).unwrap_err()
    };
    for (signatures, manifest, want) in [
        (17, 10, Part::Signatures),
        (u16::MAX, 10, Part::Signatures),
        (1, MAX_MANIFEST + 1, Part::Manifest),
        (1, u32::MAX, Part::Manifest),
    ] {
        let error = head(signatures, manifest);
        assert!(
            matches!(error, Error::TooLarge { part, .. } if part == want),
            "{error:?}"
        );
    }
    assert!(matches!(
        head(16, MAX_MANIFEST),
        Error::Truncated(Part::Manifest)
    ));
}

#[test]
fn another_format_is_told_before_its_signature() {
    let mut later = GOLDEN.to_vec();
    later[8..10].copy_from_slice(&2u16.to_le_bytes());
    let error = verify(later.as_slice(), &Keys::default()).unwrap_err();
    assert!(matches!(error, Error::Format(2)), "{error:?}");
}

#[test]
fn an_image_that_unpacks_to_something_else_is_refused() {
    let (uki, image, root) = content();
    let keys = trusting(&[KEY_A]);
    let pack = |image: &[u8]| {
        let mut packed = Vec::new();
        super::pack(&mut &*image, 3, &mut packed).unwrap();
        packed
    };
    let (bomb, short, longer) = (vec![0; 1 << 20], &image[1..], [&image[..], b"x"].concat());
    for (name, packed) in [
        ("much more", pack(&bomb)),
        ("one less", pack(short)),
        ("one more", pack(&longer)),
        ("two frames", [pack(&image), pack(b"")].concat()),
        (
            "junk after the frame",
            [&pack(&image)[..], b"junk"].concat(),
        ),
    ] {
        let described = Image {
            unpacked_bytes: image.len() as u64,
            bytes: packed.len() as u64,
            sha256: digest(&mut packed.as_slice()).unwrap().sha256,
        };
        let manifest = manifest(root, digest(&mut uki.as_slice()).unwrap(), described);
        let mut bundle = Vec::new();
        write(
            &manifest,
            &[key(KEY_A)],
            &mut &uki[..],
            &mut &packed[..],
            &mut bundle,
        )
        .unwrap();
        let mut sink = Vec::new();
        let opened = Bundle::open(bundle.as_slice(), &keys).unwrap();
        let error = opened
            .uki(&mut std::io::sink())
            .unwrap()
            .image(&mut sink)
            .unwrap_err();
        assert!(matches!(error, Error::Unpacked(_)), "{name}: {error:?}");
        assert!(sink.len() <= image.len(), "{name}");
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let more = [GOLDEN, b"x"].concat();
    let error = verify(more.as_slice(), &trusting(&[KEY_A])).unwrap_err();
    assert!(matches!(error, Error::Trailing));
}

/// Gives or takes so many bytes, in small pieces, and then fails.
struct Failing<T>(T, usize);

impl<R: Read> Read for Failing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1).min(13);
        if most == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = self.0.read(&mut buffer[..most])?;
        self.1 -= n;
        Ok(n)
    }
}

impl<W: Write> Write for Failing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = bytes.len().min(self.1).min(13);
        if most == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let n = self.0.write(&bytes[..most])?;
        self.1 -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn source_and_sink_are_told_apart() {
    let keys = trusting(&[KEY_A]);
    for length in 0..GOLDEN.len() {
        let error = verify(Failing(GOLDEN, length), &keys).unwrap_err();
        assert!(
            matches!(&error, Error::Source(io) if io.kind() == io::ErrorKind::ConnectionReset),
            "{length}: {error:?}"
        );
    }
    for most in [0, 299, 20_479] {
        let mut sink = Failing(io::sink(), most);
        let bundle = Bundle::open(GOLDEN, &keys).unwrap();
        let (part, error) = match bundle.uki(&mut sink) {
            Err(error) => (Part::Uki, error),
            Ok(bundle) => {
                let mut sink = Failing(io::sink(), most);
                (Part::Image, bundle.image(&mut sink).unwrap_err())
            }
        };
        let Error::Sink {
            part: named,
            source,
        } = error
        else {
            panic!("{most}: {error:?}")
        };
        assert_eq!((named, source.kind()), (part, io::ErrorKind::StorageFull));
    }
}

#[test]
fn a_bundle_is_not_written_of_what_its_manifest_does_not_say() {
    let (_, packed) = made(&[KEY_A], |_| ());
    let manifest = Head::read(&mut &*GOLDEN).unwrap().manifest().unwrap();
    let (uki, ..) = content();
    let try_it = |keys: &[SigningKey], uki: &[u8], packed: &[u8]| {
        write(&manifest, keys, &mut &*uki, &mut &*packed, &mut io::sink())
    };
    let keys = || vec![key(KEY_A)];
    let changed = |result| match result {
        Err(WriteError::Changed(part)) => Some(part),
        _ => None,
    };
    assert_eq!(
        changed(try_it(&keys(), &uki[1..], &packed)),
        Some(Part::Uki)
    );
    assert_eq!(
        changed(try_it(&keys(), &uki, &packed[1..])),
        Some(Part::Image)
    );
    assert!(matches!(
        try_it(&[], &uki, &packed),
        Err(WriteError::Keys(0))
    ));
    let many: Vec<SigningKey> = (0..17).map(|_| key(KEY_A)).collect();
    assert!(matches!(
        try_it(&many, &uki, &packed),
        Err(WriteError::Keys(17))
    ));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(
        junk: Vec<u8>,
        at in 0..GOLDEN.len(),
        splice in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let keys = trusting(&[KEY_A, KEY_B]);
        prop_assert!(verify(junk.as_slice(), &keys).is_err());
        let mut bad = GOLDEN.to_vec();
        let end = bad.len().min(at + splice.len());
        bad[at..end].copy_from_slice(&splice[..end - at]);
        if bad != GOLDEN {
            prop_assert!(verify(bad.as_slice(), &keys).is_err());
            repair(&mut bad);
            // What can be forged at all is the name of one of two keys, which is then unknown.
            if let Ok(manifest) = verify(bad.as_slice(), &keys) {
                prop_assert_eq!(manifest, verify(GOLDEN, &keys).unwrap());
            }
        }
    }

    #[test]
    fn hostile_manifests_never_panic(text: String, key in "[a-zA-Z]{1,12}", value in -5i64..1000) {
        Manifest::parse(text.as_bytes()).ok();
        Manifest::parse(format!("{{\"formatVersion\":1,\"{key}\":{value}}}").as_bytes()).ok();
    }
}
