//! A cut of power at any moment of an upgrade leaves a disk that boots. `cargo xtask torture` tries many more.

use anyhow::{Result, ensure};
use keelson_tests::{
    Flavor, Image,
    torture::{Options, Recording, boot, find, next, record_upgrade, try_states},
};

#[test]
fn a_cut_of_power_in_an_upgrade_leaves_a_disk_that_boots() -> Result<()> {
    let passing = tempfile::tempdir()?;
    let folder = passing.path().join("recording");
    record_upgrade(&folder)?;
    let recording = Recording::open(&folder)?;
    let options = Options {
        cuts: 60,
        seed: 1,
        since: Some("upgrade".into()),
        only: None,
    };
    let report = try_states(&recording, &next(&folder)?, &options)?;
    println!("{report}");
    ensure!(report.is_good(), "{report}");
    let image = Image::find(Flavor::Standin)?;
    for (number, version) in report.sample(1) {
        let state = find(&recording, &options, number)?;
        println!("{number}: {}", boot(&recording, &state, &image, &version)?);
    }
    Ok(())
}
