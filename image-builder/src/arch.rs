//! What differs between processor architectures, in one table. No other file of the builder may
//! spell out an architecture's name for something.

use serde::{Deserialize, Serialize};

/// A processor architecture that images are built for, by Debian's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86, 64 bit.
    Amd64,
    /// ARM, 64 bit.
    Arm64,
}

/// One row of the table.
struct Row {
    name: &'static str,
    triplet: &'static str,
    rust: &'static str,
    loader: &'static str,
    efi: &'static str,
    machine: u16,
}

const AMD64: Row = Row {
    name: "amd64",
    triplet: "x86_64-linux-gnu",
    rust: "x86_64",
    loader: "ld-linux-x86-64.so.2",
    efi: "x64",
    machine: 62,
};

const ARM64: Row = Row {
    name: "arm64",
    triplet: "aarch64-linux-gnu",
    rust: "aarch64",
    loader: "ld-linux-aarch64.so.1",
    efi: "aa64",
    machine: 183,
};

impl Arch {
    /// The architecture of the machine that builds; `None` for one that no image is built for.
    pub fn host() -> Option<Arch> {
        [Arch::Amd64, Arch::Arm64]
            .into_iter()
            .find(|arch| arch.row().rust == std::env::consts::ARCH)
    }

    fn row(self) -> &'static Row {
        match self {
            Arch::Amd64 => &AMD64,
            Arch::Arm64 => &ARM64,
        }
    }

    /// Debian's name: `amd64`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The folder of its libraries below `/usr/lib`: `x86_64-linux-gnu`.
    pub fn triplet(self) -> &'static str {
        self.row().triplet
    }

    /// The file name of glibc's program loader.
    pub fn loader(self) -> &'static str {
        self.row().loader
    }

    /// The word for it in the names of EFI programs: `x64`.
    pub fn efi(self) -> &'static str {
        self.row().efi
    }

    /// The number for it in an ELF header (`e_machine`).
    pub fn elf_machine(self) -> u16 {
        self.row().machine
    }
}
