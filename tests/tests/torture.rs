//! A cut of power at any moment leaves a disk that boots. `cargo xtask torture` tries many more.
#![allow(missing_docs)]

use anyhow::{Result, ensure};
use keelson_tests::{
    Flavor, Image,
    torture::{Options, Recording, boot, find, record_config, try_states},
};

#[test]
fn a_cut_of_power_leaves_a_disk_that_boots() -> Result<()> {
    let folder = tempfile::tempdir()?;
    record_config(folder.path())?;
    let recording = Recording::open(folder.path())?;
    let options = Options {
        cuts: 60,
        seed: 1,
        since: None,
        only: None,
    };
    let report = try_states(&recording, &[], &options)?;
    println!("{report}");
    ensure!(report.is_good(), "{report}");
    let image = Image::find(Flavor::Standin)?;
    for (number, version) in report.sample(1) {
        let state = find(&recording, &options, number)?;
        println!("{number}: {}", boot(&recording, &state, &image, &version)?);
    }
    Ok(())
}
