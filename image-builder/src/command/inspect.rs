//! `image-builder inspect`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keelson_disk::gpt::{Geometry, Source, Table};
use keelson_disk::layout::{self, EMPTY_SLOT, Role};
use keelson_disk::verity::{self, RootSpec};
use keelson_disk::{Window, cmdline, uki};

use super::shown;
use crate::image::disk::esp_range;

/// Show what is on a disk image or in a UKI
///
/// Prints the partitions, the slots, every UKI with its version and command line, and checks
/// each root that a UKI names against its root hash.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  image-builder inspect build/image/keelson.raw
  image-builder inspect build/image/keelson.efi")]
pub struct Arguments {
    /// A raw disk image, or a UKI
    image: PathBuf,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let text = describe(&self.image)?;
        // A reader that went away (`| head`) is no error.
        std::io::stdout().write_all(text.as_bytes()).ok();
        Ok(())
    }
}

/// What the command prints about an image.
pub(crate) fn describe(image: &Path) -> anyhow::Result<String> {
    let path = image.display();
    let read = || format!("cannot read {path}");
    let mut file = File::open(image).with_context(|| format!("cannot open {path}"))?;
    let mut magic = [0; 4];
    let length = file.read(&mut magic).with_context(read)?;
    let mut text = String::new();
    match &magic[..length] {
        b"QFI\xfb" => bail!(
            "{path} is a qcow2 image; inspect the raw image that was built with it, or make one: qemu-img convert -O raw {path} disk.raw"
        ),
        [b'M', b'Z', ..] => show_uki(&mut file, &mut text).map(drop),
        _ => show_disk(&mut file, &mut text),
    }
    .with_context(read)?;
    Ok(text)
}

/// Partitions, UKIs and the roots that they name.
fn show_disk(file: &mut File, text: &mut String) -> anyhow::Result<()> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let (table, source) = Table::read(file, Geometry::of_image(bytes))?;
    *text += &format!("disk {} ({})", table.disk, shown(bytes));
    *text += match source {
        Source::Primary => "\n",
        Source::Backup => ", read from the backup table: the first one is damaged\n",
    };
    for entry in &table.entries {
        let size = shown(entry.blocks() * table.geometry.block);
        *text += &format!("{:>3}  {:<13} {size:>10}  ", entry.number, entry.name);
        *text += &match entry.uuid {
            EMPTY_SLOT if entry.name == Role::RootA.label() => "empty slot\n".to_string(),
            uuid => format!("{uuid}\n"),
        };
    }
    let Some((start, length)) = esp_range(&table) else {
        *text += "\nno ESP\n";
        return Ok(());
    };
    for (name, bytes) in ukis(&mut Window::new(file, start, length))? {
        *text += &format!("\n{name} ({})\n", shown(bytes.len() as u64));
        let mut efi = std::io::Cursor::new(bytes);
        if let Some(spec) = show_uki(&mut efi, text)? {
            *text += &format!("    root      {}\n", root_state(file, &table, &spec)?);
        }
    }
    Ok(())
}

/// The slot with this root, and whether it is whole.
fn root_state(file: &mut File, table: &Table, spec: &RootSpec) -> anyhow::Result<String> {
    let Some(slot) = layout::find_slot(table, &spec.root_hash) else {
        return Ok("in no slot of this disk".to_string());
    };
    let block = table.geometry.block;
    let mut window = Window::new(file, slot.first * block, slot.blocks() * block);
    Ok(match verity::verify(&mut window, spec) {
        Ok(()) => format!("partition {}, whole", slot.number),
        Err(error) => format!("partition {}: {error}", slot.number),
    })
}

/// Every UKI on an ESP: path and content.
fn ukis(esp: &mut (impl Read + Write + Seek)) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let system = fatfs::FileSystem::new(esp, fatfs::FsOptions::new())
        .context("the ESP has no FAT file system")?;
    let mut found = Vec::new();
    let Ok(folder) = system.root_dir().open_dir("EFI/Linux") else {
        return Ok(found);
    };
    for entry in folder.iter() {
        let entry = entry?;
        if entry.is_file() {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes)?;
            found.push((format!("EFI/Linux/{}", entry.file_name()), bytes));
        }
    }
    found.sort();
    Ok(found)
}

/// Sections and texts of a UKI; returns the root that it names.
fn show_uki(file: &mut (impl Read + Seek), text: &mut String) -> anyhow::Result<Option<RootSpec>> {
    for name in [".osrel", ".uname"] {
        if let Some(content) = uki::text(file, name)? {
            let shown = content
                .lines()
                .find_map(|line| line.strip_prefix("PRETTY_NAME="))
                .unwrap_or(&content);
            *text += &format!("    {:<9} {}\n", &name[1..], shown.trim_matches('"'));
        }
    }
    for section in uki::sections(file)? {
        if matches!(section.name.as_str(), ".initrd" | ".linux") {
            *text += &format!(
                "    {:<9} {} at {:#x}\n",
                &section.name[1..],
                shown(section.size),
                section.offset
            );
        }
    }
    let Some(line) = uki::text(file, ".cmdline")? else {
        *text += "    no command line\n";
        return Ok(None);
    };
    *text += &format!("    cmdline   {line}\n");
    match cmdline::Options::parse(&line) {
        Ok(options) => Ok(Some(options.root)),
        Err(error) => {
            *text += &format!("    root      {error}\n");
            Ok(None)
        }
    }
}
