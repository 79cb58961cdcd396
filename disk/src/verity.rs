//! dm-verity: the hash tree behind a root image, and the words that open it.
//!
//! A slot holds the data, then one block with the verity superblock, then the tree, its
//! topmost level first. Every hash is SHA-256 over salt and a 4096-byte block; a tree block holds
//! 128 of them. The format is the one of `veritysetup format --format=1`, byte for byte
//! (kernel: Documentation/admin-guide/device-mapper/verity.rst).
//!
//! ```text
//! block 0 ........ data_blocks | superblock | level n (1 block) | … | level 0 (one hash per data block)
//! ```

use std::io::{self, Read, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

/// Bytes of a data block and of a hash block.
pub const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = BLOCK as usize;
const HASH_BYTES: usize = 32;
const HASHES_PER_BLOCK: u64 = BLOCK / HASH_BYTES as u64;
/// The most data blocks of an image (16 TiB), so that no sum below can overflow.
const MAX_DATA_BLOCKS: u64 = 1 << 32;

/// What names one root image and nothing else: enough to open it and to prove every byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootSpec {
    /// The hash of the topmost tree block.
    pub root_hash: [u8; HASH_BYTES],
    /// How many 4096-byte blocks of data there are.
    pub data_blocks: u64,
    /// What goes into every hash before the block.
    pub salt: [u8; 32],
}

/// Why an image is not the one its [`RootSpec`] names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No data at all, or more than can be.
    #[error("an image of {0} blocks cannot have a hash tree")]
    Size(u64),
    /// The bytes could not be read or written.
    #[error("cannot read or write the image")]
    Io(#[from] io::Error),
    /// The verity superblock is not the expected one.
    #[error("the verity superblock in block {0} is damaged")]
    Superblock(u64),
    /// A data block is not what its hash in the tree says.
    #[error("data block {0} is damaged")]
    Data(u64),
    /// A block of the tree itself is not what it must be.
    #[error("hash tree block {0} is damaged")]
    Tree(u64),
    /// Data and tree agree with each other, and not with the root hash.
    #[error("the image has another root hash")]
    RootHash,
}

impl RootSpec {
    /// How many 512-byte sectors the opened device has.
    pub fn sectors(&self) -> u64 {
        self.data_blocks.saturating_mul(BLOCK / 512)
    }

    /// How many blocks the image takes in all: data, superblock and tree.
    pub fn image_blocks(&self) -> u64 {
        let tree: u64 = Shape::new(self.data_blocks)
            .map(|shape| shape.levels.iter().map(|level| level.blocks).sum())
            .unwrap_or(0);
        self.data_blocks.saturating_add(1).saturating_add(tree)
    }

    /// The parameters of the `verity` target for `device` (such as `/dev/vda3` or `254:3`); a
    /// table line is `0 <sectors> verity <these>`. Corruption restarts the machine.
    pub fn table(&self, device: &str) -> String {
        let RootSpec { data_blocks, .. } = self;
        let hash_start = data_blocks.saturating_add(1);
        let root = hex(&self.root_hash);
        let salt = hex(&self.salt);
        format!(
            "1 {device} {device} {BLOCK} {BLOCK} {data_blocks} {hash_start} sha256 {root} {salt} 1 restart_on_corruption"
        )
    }
}

/// Reads `data_blocks` blocks of data from `data` and writes superblock and tree into `image`,
/// which holds (or will hold) the same data from its start. Returns the root hash in the spec.
pub fn build(
    data: &mut impl Read,
    data_blocks: u64,
    salt: [u8; 32],
    image: &mut (impl Write + Seek),
) -> Result<RootSpec, Error> {
    let root_hash = walk(data_blocks, &salt, data, |_, at, block| {
        image.seek(SeekFrom::Start(at * BLOCK))?;
        Ok(image.write_all(block)?)
    })?;
    image.seek(SeekFrom::Start(data_blocks * BLOCK))?;
    image.write_all(&superblock(data_blocks, &salt))?;
    image.flush()?;
    Ok(RootSpec {
        root_hash,
        data_blocks,
        salt,
    })
}

/// Reads a whole image and proves that data, superblock and tree are those of `spec`. `image`
/// may be longer (a slot is).
pub fn verify(image: &mut (impl Read + Seek), spec: &RootSpec) -> Result<(), Error> {
    let shared = std::cell::RefCell::new(image);
    let mut data = DataReader {
        image: &shared,
        position: 0,
    };
    let root_hash = walk(
        spec.data_blocks,
        &spec.salt,
        &mut data,
        |lower, at, block| {
            let mut found = [0; BLOCK_BYTES];
            let mut image = shared.borrow_mut();
            image.seek(SeekFrom::Start(at * BLOCK))?;
            image.read_exact(&mut found)?;
            let hashes = found.chunks(HASH_BYTES).zip(block.chunks(HASH_BYTES));
            match hashes.zip(0..).find(|((a, b), _)| a != b) {
                None => Ok(()),
                Some((_, n)) => Err(match lower {
                    Lower::Data(first) if first + n < spec.data_blocks => Error::Data(first + n),
                    _ => Error::Tree(at),
                }),
            }
        },
    )?;
    let mut found = [0; BLOCK_BYTES];
    let image = shared.into_inner();
    image.seek(SeekFrom::Start(spec.data_blocks * BLOCK))?;
    image.read_exact(&mut found)?;
    if found != superblock(spec.data_blocks, &spec.salt) {
        return Err(Error::Superblock(spec.data_blocks));
    }
    if root_hash != spec.root_hash {
        return Err(Error::RootHash);
    }
    Ok(())
}

/// The data at the front of an image whose tree is read in between.
struct DataReader<'a, 'b, R> {
    image: &'a std::cell::RefCell<&'b mut R>,
    position: u64,
}

impl<R: Read + Seek> Read for DataReader<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut image = self.image.borrow_mut();
        image.seek(SeekFrom::Start(self.position))?;
        let n = image.read(buffer)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// What the hashes in a tree block are of.
enum Lower {
    /// Data blocks, from this one.
    Data(u64),
    /// Tree blocks of the level below.
    Tree,
}

/// Where the levels of a tree lie.
struct Shape {
    /// From the leaves (one hash for each data block) up to the single topmost block.
    levels: Vec<Extent>,
}

#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    blocks: u64,
}

impl Shape {
    fn new(data_blocks: u64) -> Result<Shape, Error> {
        if data_blocks == 0 || data_blocks > MAX_DATA_BLOCKS {
            return Err(Error::Size(data_blocks));
        }
        let mut levels = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(HASHES_PER_BLOCK);
            levels.push(Extent {
                start: 0,
                blocks: below,
            });
        }
        let mut start = data_blocks + 1;
        for level in levels.iter_mut().rev() {
            level.start = start;
            start += level.blocks;
        }
        Ok(Shape { levels })
    }
}

/// A tree block of each level that is being filled.
struct Pending {
    block: Box<[u8; BLOCK_BYTES]>,
    hashes: u64,
    written: u64,
}

/// Hashes the data in one pass and hands every finished tree block to `each` with its place in
/// the image; returns the root hash. Memory: one block for each level.
fn walk(
    data_blocks: u64,
    salt: &[u8],
    data: &mut impl Read,
    mut each: impl FnMut(Lower, u64, &[u8; BLOCK_BYTES]) -> Result<(), Error>,
) -> Result<[u8; HASH_BYTES], Error> {
    let shape = Shape::new(data_blocks)?;
    let mut pending: Vec<Pending> = shape
        .levels
        .iter()
        .map(|_| Pending {
            block: Box::new([0; BLOCK_BYTES]),
            hashes: 0,
            written: 0,
        })
        .collect();
    let salted = Sha256::new_with_prefix(salt);
    let hash =
        |block: &[u8]| -> [u8; HASH_BYTES] { salted.clone().chain_update(block).finalize().into() };

    let mut chunk = vec![0; 64 * BLOCK_BYTES];
    let mut left = data_blocks;
    let mut root = [0; HASH_BYTES];
    while left > 0 {
        let blocks = left.min(64);
        let chunk = &mut chunk[..blocks as usize * BLOCK_BYTES];
        data.read_exact(chunk)?;
        left -= blocks;
        for (n, block) in chunk.chunks(BLOCK_BYTES).enumerate() {
            let last_block = left == 0 && n as u64 + 1 == blocks;
            let mut digest = hash(block);
            // Carry the digest up as long as it completes the block of a level.
            for (level, extent) in shape.levels.iter().enumerate() {
                let here = &mut pending[level];
                let at = here.hashes as usize * HASH_BYTES;
                here.block[at..at + HASH_BYTES].copy_from_slice(&digest);
                here.hashes += 1;
                if here.hashes < HASHES_PER_BLOCK && !last_block {
                    break;
                }
                let lower = match level {
                    0 => Lower::Data(here.written * HASHES_PER_BLOCK),
                    _ => Lower::Tree,
                };
                each(lower, extent.start + here.written, &here.block)?;
                digest = hash(&here.block[..]);
                here.block.fill(0);
                here.hashes = 0;
                here.written += 1;
            }
            root = digest;
        }
    }
    Ok(root)
}

/// The verity superblock, format 1, with the nil UUID, filled up to a whole block.
fn superblock(data_blocks: u64, salt: &[u8; 32]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &1u32.to_le_bytes()); // version of the superblock
    put(12, &1u32.to_le_bytes()); // hash type: salt before data
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &data_blocks.to_le_bytes());
    put(80, &(salt.len() as u16).to_le_bytes());
    put(88, salt);
    block
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// 32 bytes from 64 hex digits of either case; anything else is `None`.
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use std::process::Command;

    /// An image with recognisable data.
    fn image(data_blocks: u64) -> (Vec<u8>, RootSpec) {
        let mut bytes: Vec<u8> = (0..data_blocks * BLOCK)
            .map(|i| (i / BLOCK * 7 + i % 251) as u8)
            .collect();
        let data = bytes.clone();
        let spec = build(
            &mut data.as_slice(),
            data_blocks,
            [0x5a; 32],
            &mut Cursor::new(&mut bytes),
        )
        .unwrap();
        (bytes, spec)
    }

    #[test]
    fn the_root_hash_is_the_recorded_one() {
        // Recorded from what veritysetup 2.6.1 prints.
        for (blocks, root) in GOLDEN {
            assert_eq!(hex(&image(blocks).1.root_hash), root, "{blocks} blocks");
        }
    }

    const GOLDEN: [(u64, &str); 4] = [
        (
            1,
            "c73ef18a004c4b4f0ebf486ae0782514d0c44322578154d0d16259e4c615cc2b",
        ),
        (
            2,
            "e8ef7dbb5c8d9c736303ab871093f4c055812fee1a60adc4c6bd1cb883ed3ce4",
        ),
        (
            129,
            "b849ec9a303c2c30b8c567626d57cd872bb18d42841342e47a3542df5f07e3f9",
        ),
        (
            16_385,
            "5cff353f4aef4378489c3566db48cdd72af3d55f47395c6120e130f4d43969db",
        ),
    ];

    #[test]
    fn an_image_is_as_long_as_its_spec_says() {
        for blocks in [1, 2, 127, 128, 129, 128 * 128, 128 * 128 + 1] {
            let (bytes, spec) = image(blocks);
            assert_eq!(bytes.len() as u64, spec.image_blocks() * BLOCK, "{blocks}");
            verify(&mut Cursor::new(&bytes), &spec).unwrap();
        }
    }

    #[test]
    fn one_flipped_bit_is_found_and_named() {
        let (bytes, spec) = image(300);
        // 300 data blocks, superblock 300, top 301, leaves 302..=304.
        for (block, want) in [
            (0, "data block 0 is damaged"),
            (299, "data block 299 is damaged"),
            (300, "the verity superblock in block 300 is damaged"),
            (301, "hash tree block 301 is damaged"),
        ] {
            let mut bad = bytes.clone();
            bad[block * BLOCK_BYTES + 10] ^= 4;
            let error = verify(&mut Cursor::new(&bad), &spec).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        let other = RootSpec {
            root_hash: [1; 32],
            ..spec
        };
        assert!(matches!(
            verify(&mut Cursor::new(&bytes), &other),
            Err(Error::RootHash)
        ));
        let short = &bytes[..bytes.len() - 1];
        assert!(matches!(
            verify(&mut Cursor::new(short), &spec),
            Err(Error::Io(_))
        ));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for blocks in [0, MAX_DATA_BLOCKS + 1, u64::MAX] {
            let spec = RootSpec {
                root_hash: [0; 32],
                data_blocks: blocks,
                salt: [0; 32],
            };
            assert!(matches!(
                verify(&mut Cursor::new(Vec::new()), &spec),
                Err(Error::Size(_))
            ));
            spec.sectors();
            spec.image_blocks();
            spec.table("/dev/null");
        }
    }

    #[test]
    fn the_table_has_every_word_in_its_place() {
        let spec = RootSpec {
            root_hash: [0xab; 32],
            data_blocks: 100,
            salt: [0x01; 32],
        };
        let (root, salt) = ("ab".repeat(32), "01".repeat(32));
        assert_eq!(
            spec.table("/dev/vda3"),
            format!(
                "1 /dev/vda3 /dev/vda3 4096 4096 100 101 sha256 {root} {salt} 1 restart_on_corruption"
            )
        );
        assert_eq!(spec.sectors(), 800);
    }

    #[test]
    fn hex_goes_both_ways() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 9) as u8);
        assert_eq!(parse_hash(&hex(&bytes)), Some(bytes));
        for bad in ["", "0", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(parse_hash(bad), None, "{bad}");
        }
    }

    /// The tool that defines the format, where it is installed, makes the same bytes.
    #[test]
    fn veritysetup_agrees() {
        if Command::new("veritysetup")
            .arg("--version")
            .output()
            .is_err()
        {
            eprintln!("skipped: veritysetup is not installed");
            return;
        }
        for blocks in [1, 2, 128, 129, 16_384, 16_385] {
            let (bytes, spec) = image(blocks);
            let dir = tempfile::tempdir().unwrap();
            let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
            std::fs::write(&ours, &bytes).unwrap();
            std::fs::write(&theirs, &bytes[..(blocks * BLOCK) as usize]).unwrap();
            let offset = format!("--hash-offset={}", blocks * BLOCK);
            let verified = Command::new("veritysetup")
                .arg("verify")
                .args([&ours, &ours])
                .arg(hex(&spec.root_hash))
                .arg(&offset)
                .output()
                .unwrap();
            assert!(verified.status.success(), "{blocks}: {verified:?}");
            let formatted = Command::new("veritysetup")
                .args(["format", "--uuid=00000000-0000-0000-0000-000000000000"])
                .arg(format!("--data-blocks={blocks}"))
                .arg(format!("--salt={}", hex(&spec.salt)))
                .arg(&offset)
                .args([&theirs, &theirs])
                .output()
                .unwrap();
            assert!(formatted.status.success(), "{blocks}: {formatted:?}");
            let text = String::from_utf8(formatted.stdout).unwrap();
            assert!(text.contains(&hex(&spec.root_hash)), "{blocks}: {text}");
            assert!(
                std::fs::read(&theirs).unwrap() == bytes,
                "{blocks}: bytes differ"
            );
        }
    }
}
