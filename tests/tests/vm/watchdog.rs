//! What hangs is noticed: machined is replaced, and a machine that hangs as a whole comes
//! back by itself and tells why.

use anyhow::Result;
use keelson_tests::{BOOT, Node};
use std::time::Duration;

/// init waits for a minute, the watchdog for less; and these machines are slow.
const NOTICED: Duration = Duration::from_secs(600);

#[test]
fn a_machined_that_hangs_is_replaced_and_nobody_else_notices() -> Result<()> {
    let node = Node::configured("hang-machined", "stop-machined")?;
    // It cannot be asked meanwhile: the new one hands the log out.
    let log = node.wait_for_log("standin", "hang: machined is stopped", NOTICED)?;
    assert_eq!(log.matches("standin server starts").count(), 1, "{log}");
    let kernel = node.wait_for_dmesg("machined was started again", NOTICED)?;
    assert!(
        kernel.contains("machined was started again: it said nothing for 60 s"),
        "{kernel}"
    );
    assert!(!kernel.contains("standin ended"), "{kernel}");
    Ok(())
}

#[test]
fn a_machine_whose_init_hangs_comes_back_and_tells_why() -> Result<()> {
    let node = Node::configured("hang-init", "freeze-init")?;
    let console = node.vm.console();
    let panic = console.wait_for("Kernel panic", NOTICED)?;
    assert!(panic.contains("watchdog pretimeout event"), "{panic}");
    console.wait_after(console.position(), "(server)", BOOT)?;
    node.wait_for_answer(BOOT)?;
    node.wait_for_log("standin", "hang: it was done before", NOTICED)?;
    let crashes = node.wait_for_resource("crash", NOTICED)?;
    let crashes: serde_json::Value = serde_json::from_str(&crashes)?;
    assert_eq!(crashes[0]["spec"]["reason"], "panic", "{crashes}");
    let message = crashes[0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("watchdog pretimeout event"), "{crashes}");
    Ok(())
}
