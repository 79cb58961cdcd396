//! The unified kernel image: systemd's EFI stub with our sections behind its own (the UAPI
//! group's "Unified Kernel Image"; Microsoft's PE format). Firmware checks one signature over all
//! of it, so command line and initramfs are as trusted as the kernel.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use object::LittleEndian as LE;
use object::pe::{self, ImageDosHeader, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader};

use crate::arch::Arch;

const SECTION_HEADER: usize = 40;
/// Where these fields lie behind the start of the PE header.
const SECTION_COUNT: usize = 6;
const INITIALIZED_DATA_SIZE: usize = 24 + 8;
const IMAGE_SIZE: usize = 24 + 56;
const CHECKSUM: usize = 24 + 64;

/// What goes into a UKI.
pub(super) struct Parts<'a> {
    pub(super) stub: &'a Path,
    pub(super) os_release: &'a str,
    pub(super) command_line: &'a str,
    pub(super) kernel_release: &'a str,
    pub(super) initramfs: &'a Path,
    pub(super) kernel: &'a Path,
}

/// A section to add.
struct Section {
    name: &'static str,
    content: Vec<u8>,
}

/// The architecture of an EFI program.
pub(super) fn arch(program: &Path) -> anyhow::Result<Arch> {
    let bytes = read(program)?;
    let stub = Stub::parse(&bytes).with_context(|| not_efi(program))?;
    match stub.machine {
        pe::IMAGE_FILE_MACHINE_AMD64 => Ok(Arch::Amd64),
        pe::IMAGE_FILE_MACHINE_ARM64 => Ok(Arch::Arm64),
        other => bail!(
            "{} is for machine {:#x}, which no image is built for",
            program.display(),
            other.0
        ),
    }
}

/// Writes the UKI into `file`.
pub(super) fn write(parts: &Parts<'_>, file: &mut File) -> anyhow::Result<()> {
    let stub = read(parts.stub)?;
    let sections = [
        Section::new(".osrel", parts.os_release.as_bytes().to_vec()),
        Section::new(".cmdline", parts.command_line.as_bytes().to_vec()),
        Section::new(".uname", parts.kernel_release.as_bytes().to_vec()),
        Section::new(".initrd", read(parts.initramfs)?),
        // The kernel is last: its memory then ends the image, and nothing lies behind it.
        Section::new(".linux", read(parts.kernel)?),
    ];
    let bytes = append(&stub, &sections).with_context(|| not_efi(parts.stub))?;
    file.write_all(&bytes).context("cannot write the UKI")
}

impl Section {
    fn new(name: &'static str, content: Vec<u8>) -> Section {
        Section { name, content }
    }

    /// What the section is in memory: the kernel may be run in place, the rest is data.
    fn characteristics(&self) -> u32 {
        let kind = match self.name {
            ".linux" => pe::IMAGE_SCN_CNT_CODE | pe::IMAGE_SCN_MEM_EXECUTE,
            _ => pe::IMAGE_SCN_CNT_INITIALIZED_DATA,
        };
        (kind | pe::IMAGE_SCN_MEM_READ).0
    }
}

/// What has to be known of the stub.
struct Stub {
    machine: pe::Machine,
    /// Where the PE header begins.
    header: usize,
    /// Where the table of sections begins, and how many it has.
    table: usize,
    count: u16,
    /// The end of the room for headers.
    headers_end: u32,
    file_alignment: u32,
    memory_alignment: u32,
    /// The end of the last section in memory.
    memory_end: u32,
    data_size: u32,
}

impl Stub {
    fn parse(bytes: &[u8]) -> anyhow::Result<Stub> {
        let header = ImageDosHeader::parse(bytes)?.nt_headers_offset();
        let mut at = u64::from(header);
        let (nt, directories) = ImageNtHeaders64::parse(bytes, &mut at)?;
        let optional = nt.optional_header();
        let sections = nt.sections(bytes, at)?;
        if directories
            .get(pe::IMAGE_DIRECTORY_ENTRY_SECURITY)
            .is_some_and(|signature| signature.size.get(LE) != 0)
        {
            bail!("it is signed; the UKI is signed as a whole instead, so take the unsigned stub");
        }
        let mut headers_end = optional.size_of_headers();
        let mut memory_end = 0;
        for section in sections.iter() {
            if section.name == *b".linux\0\0" {
                bail!("it is a UKI already");
            }
            let stored = section.pointer_to_raw_data.get(LE);
            if section.size_of_raw_data.get(LE) > 0 {
                headers_end = headers_end.min(stored);
            }
            let end = section
                .virtual_address
                .get(LE)
                .checked_add(section.virtual_size.get(LE))
                .context("a section ends past 4 GiB")?;
            memory_end = memory_end.max(end);
        }
        let powers = [optional.file_alignment(), optional.section_alignment()];
        if powers.iter().any(|n| !n.is_power_of_two() || *n > 1 << 16) {
            bail!("its alignment is not a power of two");
        }
        Ok(Stub {
            machine: nt.file_header().machine.get(LE),
            header: header as usize,
            table: at as usize,
            count: nt.file_header().number_of_sections.get(LE),
            headers_end,
            file_alignment: optional.file_alignment(),
            memory_alignment: optional.section_alignment(),
            memory_end,
            data_size: optional.size_of_initialized_data(),
        })
    }
}

/// The stub with the sections behind its own.
fn append(stub_bytes: &[u8], sections: &[Section]) -> anyhow::Result<Vec<u8>> {
    let stub = Stub::parse(stub_bytes)?;
    let count = usize::from(stub.count) + sections.len();
    let table_end = stub.table + count * SECTION_HEADER;
    if table_end > stub.headers_end as usize {
        bail!(
            "its headers have no room for {} more sections: they would end at {table_end}, and the first section begins at {}",
            sections.len(),
            stub.headers_end
        );
    }
    let mut bytes = stub_bytes.to_vec();
    let mut header_at = stub.table + usize::from(stub.count) * SECTION_HEADER;
    let mut memory = align(stub.memory_end, stub.memory_alignment)?;
    let mut data_size = stub.data_size;
    for section in sections {
        let offset = align(u32::try_from(bytes.len())?, stub.file_alignment)?;
        bytes.resize(offset as usize, 0);
        bytes.extend_from_slice(&section.content);
        let size = u32::try_from(section.content.len())?;
        let stored = align(size, stub.file_alignment)?;
        bytes.resize(offset as usize + stored as usize, 0);

        let mut header = [0; SECTION_HEADER];
        header[..section.name.len()].copy_from_slice(section.name.as_bytes());
        for (at, value) in [
            (8, size),
            (12, memory),
            (16, stored),
            (20, offset),
            (36, section.characteristics()),
        ] {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[header_at..header_at + SECTION_HEADER].copy_from_slice(&header);
        header_at += SECTION_HEADER;
        let end = memory.checked_add(size).context("the UKI is too large")?;
        memory = align(end, stub.memory_alignment)?;
        data_size = data_size
            .checked_add(stored)
            .context("the UKI is too large")?;
    }
    let mut put = |at: usize, value: &[u8]| {
        bytes[stub.header + at..stub.header + at + value.len()].copy_from_slice(value);
    };
    put(SECTION_COUNT, &u16::try_from(count)?.to_le_bytes());
    put(INITIALIZED_DATA_SIZE, &data_size.to_le_bytes());
    put(IMAGE_SIZE, &memory.to_le_bytes());
    // Firmware does not look at it, and signing tools compute it anew.
    put(CHECKSUM, &[0; 4]);
    Ok(bytes)
}

fn align(value: u32, to: u32) -> anyhow::Result<u32> {
    value
        .checked_next_multiple_of(to)
        .context("the UKI would be larger than 4 GiB")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn not_efi(path: &Path) -> String {
    format!("{} is not an EFI stub that can be used", path.display())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use object::read::pe::PeFile64;
    use object::{Object, ObjectSection};
    use std::io::Cursor;

    /// A PE file with one section `.text`, headers of `headers` bytes, loaded high as systemd's
    /// stub is.
    pub(crate) fn stub(headers: usize) -> Vec<u8> {
        let mut bytes = vec![0; headers + 512];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(60, &64u32.to_le_bytes());
        put(64, b"PE\0\0");
        put(68, &pe::IMAGE_FILE_MACHINE_AMD64.0.to_le_bytes());
        put(70, &1u16.to_le_bytes());
        put(84, &(112u16 + 16 * 8).to_le_bytes());
        let optional = 88;
        put(optional, &pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC.to_le_bytes());
        put(optional + 24, &0x1_4df9_0000u64.to_le_bytes());
        put(optional + 32, &4096u32.to_le_bytes());
        put(optional + 36, &512u32.to_le_bytes());
        put(optional + 56, &8192u32.to_le_bytes());
        put(optional + 60, &(headers as u32).to_le_bytes());
        put(optional + 64, &[1, 2, 3, 4]);
        put(optional + 108, &16u32.to_le_bytes());
        let section = optional + 112 + 16 * 8;
        put(section, b".text");
        for (at, value) in [(8, 300u32), (12, 4096), (16, 512), (20, headers as u32)] {
            put(section + at, &value.to_le_bytes());
        }
        put(headers, &[0x90; 300]);
        bytes
    }

    fn sections() -> [Section; 3] {
        [
            Section::new(".cmdline", b"quiet".to_vec()),
            Section::new(".initrd", vec![1; 5000]),
            Section::new(".linux", vec![2; 10_000]),
        ]
    }

    #[test]
    fn every_section_is_where_the_headers_say() {
        let bytes = append(&stub(1024), &sections()).unwrap();
        let file = PeFile64::parse(&*bytes).unwrap();
        let mut end = 0;
        for section in file.sections() {
            let address = section.address() - 0x1_4df9_0000;
            assert!(address >= end, "sections overlap in memory");
            assert_eq!(address % 4096, 0);
            assert_eq!(section.file_range().unwrap().0 % 512, 0);
            end = address + section.size();
        }
        let optional = &file.nt_headers().optional_header;
        assert_eq!(
            u64::from(optional.size_of_image()),
            end.next_multiple_of(4096)
        );
        assert_eq!(optional.check_sum(), 0);
        assert_eq!(bytes.len() % 512, 0);
        let linux = file.section_by_name(".linux").unwrap();
        assert_eq!(linux.data().unwrap()[..10_000], [2; 10_000]);
        let found = keelson_disk::uki::sections(&mut Cursor::new(&bytes)).unwrap();
        assert_eq!(found.last().unwrap().size, 10_000);
        let text = keelson_disk::uki::text(&mut Cursor::new(&bytes), ".cmdline").unwrap();
        assert_eq!(text.as_deref(), Some("quiet"));
    }

    #[test]
    fn stubs_that_cannot_be_used_are_refused() {
        let full = append(&stub(1024), &sections()).unwrap();
        let mut signed = stub(1024);
        signed[88 + 112 + 4 * 8..][..8].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
        for (what, bytes, want) in [
            ("no room", stub(400), "no room"),
            ("twice", full, "UKI already"),
            ("signed", signed, "signed"),
            ("text", b"#!/bin/sh".to_vec(), "DOS header"),
        ] {
            let error = format!("{:#}", append(&bytes, &sections()).map(drop).unwrap_err());
            assert!(error.contains(want), "{what}: {error}");
        }
    }
}
