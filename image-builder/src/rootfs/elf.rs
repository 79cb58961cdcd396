//! What an ELF file says of itself: kind, architecture, the libraries and the loader it needs.
//! Pure; a file that is no ELF is `None`, a damaged one an error.

use object::Endianness;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

/// What an ELF file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    /// `e_machine`.
    pub(crate) machine: u16,
    /// True for a relocatable file, such as a kernel module.
    pub(crate) relocatable: bool,
    /// The loader's path (`PT_INTERP`).
    pub(crate) loader: Option<String>,
    /// The libraries it needs (`DT_NEEDED`).
    pub(crate) needed: Vec<String>,
    /// Where it looks for them before the usual places (`DT_RUNPATH`, `DT_RPATH`).
    pub(crate) run_path: Vec<String>,
}

/// True if the bytes begin as an ELF file does.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&elf::ELFMAG)
}

/// Reads an ELF file of 64 bits.
pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<Option<Elf>> {
    if !is_elf(bytes) {
        return Ok(None);
    }
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let mut loader = None;
    for segment in header.program_headers(endian, bytes)? {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            loader = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let mut needed = Vec::new();
    let mut run_path = Vec::new();
    let sections = header.sections(endian, bytes)?;
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries {
            let tag = entry.d_tag(endian);
            if tag == elf::DT_NULL {
                break;
            }
            if [elf::DT_NEEDED, elf::DT_RUNPATH, elf::DT_RPATH].contains(&tag) {
                let text = entry.string(endian, strings)?;
                let text = String::from_utf8_lossy(text).into_owned();
                match tag {
                    elf::DT_NEEDED => needed.push(text),
                    _ => run_path.extend(text.split(':').map(String::from)),
                }
            }
        }
    }
    Ok(Some(Elf {
        machine: header.e_machine(endian).0,
        relocatable: header.e_type(endian) == elf::ET_REL,
        loader,
        needed,
        run_path,
    }))
}

/// The contents of one section of an ELF file, `None` if it has no such section.
pub(crate) fn section<'a>(bytes: &'a [u8], name: &str) -> anyhow::Result<Option<&'a [u8]>> {
    use object::read::elf::SectionHeader as _;
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    match sections.section_by_name(endian, name.as_bytes()) {
        Some((_, section)) => Ok(Some(section.data(endian, bytes)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_no_elf() {
        assert_eq!(read(b"#!/bin/sh\n").expect("no error"), None);
    }

    #[test]
    fn a_dynamic_program_names_its_loader_and_libraries() {
        // The test's own executable is one.
        let bytes = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
        let elf = read(&bytes).expect("whole").expect("an ELF");
        assert!(!elf.relocatable);
        if elf.loader.is_some() {
            assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")));
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = elf::ELFMAG.to_vec();
            bytes.extend([2, 1, 1, 0]);
            bytes.extend(tail);
            let read = read(&bytes);
            prop_assert!(read.is_err() || read.is_ok());
        }
    }
}
