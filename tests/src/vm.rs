//! A guest in QEMU: its disk is an overlay over the built image, its network is
//! QEMU's own and reaches nothing but the ports that are forwarded on loopback.

use crate::{
    Accel, Console, Image, accel,
    firmware::{self, Attendant},
    image::target,
    memory::Memory,
    monitor::Monitor,
    torture::{Recording, WRITES},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a boot may take: the slowest machine in software, under load, that hung once
/// between two runs, see [`Attendant`].
pub const BOOT: Duration = Duration::from_secs(420);

/// What a config needs in a guest's network, as a patch: QEMU's DHCP server gives
/// an address, but an isolated network has no way out to tell of, and no time server.
pub const NETWORK: &str = "\
machine:
  time: {servers: []}
network:
  links:
    - name: eth0
      dhcp: {v4: true}
      routes: [{to: 0.0.0.0/0, via: 10.0.2.2}]
  nameservers: [10.0.2.3]
";

/// QEMU's name of a guest's balloon.
const BALLOON: &str = "balloon";

/// A guest's disk, in its folder.
const DISK: &str = "disk.qcow2";

/// How to start a guest.
#[derive(Clone, Debug)]
pub struct Guest {
    image: Image,
    memory_mib: u32,
    cpus: u32,
    disk_gib: u32,
    config: Option<PathBuf>,
    forwards: Vec<u16>,
    folder: Option<PathBuf>,
    writes: Option<PathBuf>,
    disks: Vec<(PathBuf, String)>,
    has_the_host: bool,
    balloon: bool,
}

impl Guest {
    /// A guest from this image: two CPUs, 1 GiB, a disk of 12 GiB.
    pub fn new(image: &Image) -> Guest {
        Guest {
            image: image.clone(),
            memory_mib: 1024,
            cpus: 2,
            disk_gib: 12,
            config: None,
            forwards: Vec::new(),
            folder: None,
            writes: None,
            disks: Vec::new(),
            has_the_host: false,
            balloon: false,
        }
    }

    /// With the host for itself: no other guest runs beside it.
    pub fn has_the_host(mut self) -> Guest {
        self.has_the_host = true;
        self
    }

    /// With a memory balloon, whose driver answers [`Vm::memory`].
    pub fn balloon(mut self) -> Guest {
        self.balloon = true;
        self
    }

    /// With this much memory.
    pub fn memory_mib(mut self, memory_mib: u32) -> Guest {
        self.memory_mib = memory_mib;
        self
    }

    /// With a config that the platform offers (QEMU's fw_cfg).
    pub fn config(mut self, file: &Path) -> Guest {
        self.config = Some(file.to_owned());
        self
    }

    /// With this raw file as a further disk of this serial number.
    pub fn disk(mut self, file: &Path, serial: &str) -> Guest {
        self.disks.push((file.to_owned(), serial.to_owned()));
        self
    }

    /// With this guest port reachable on a port of loopback, beside the API's.
    pub fn forward(mut self, port: u16) -> Guest {
        self.forwards.push(port);
        self
    }

    /// With its files in this folder, which outlives the guest.
    pub fn folder(mut self, folder: &Path) -> Guest {
        self.folder = Some(folder.to_owned());
        self
    }

    /// With all writes to its disk recorded in this folder, see [`Recording`].
    pub fn log_writes(mut self, folder: &Path) -> Guest {
        self.writes = Some(folder.to_owned());
        self
    }

    /// Makes the disk and starts the guest. `name` is for files that are kept.
    pub fn start(self, name: &str) -> Result<Vm> {
        let folder = match &self.folder {
            Some(folder) => {
                fs::create_dir_all(folder)?;
                Folder::Kept(folder.clone())
            }
            None => Folder::Passing(tempfile::Builder::new().prefix("keelson-vm-").tempdir()?),
        };
        let disk = folder.path().join(DISK);
        overlay(&self.image.disk(), &disk, self.disk_gib)?;
        Vm::launch(self, name, folder, disk)
    }

    /// Starts the guest on a disk that is there already.
    pub fn start_on(self, name: &str, disk: &Path) -> Result<Vm> {
        let folder = Folder::Passing(tempfile::Builder::new().prefix("keelson-vm-").tempdir()?);
        Vm::launch(self, name, folder, disk.to_owned())
    }
}

/// A running guest. It ends when this is dropped; its console is kept when a
/// test that held it panics.
pub struct Vm {
    name: String,
    child: Child,
    folder: Folder,
    console: Console,
    monitor: Monitor,
    /// Ends by itself when it is dropped.
    _attendant: Attendant,
    ports: Vec<(u16, u16)>,
    detached: bool,
}

enum Folder {
    Passing(TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Folder::Passing(folder) => folder.path(),
            Folder::Kept(folder) => folder,
        }
    }
}

impl Vm {
    fn launch(guest: Guest, name: &str, folder: Folder, disk: PathBuf) -> Result<Vm> {
        let (code, vars) = firmware::files()?;
        let own_vars = folder.path().join("vars.fd");
        fs::copy(&vars, &own_vars).with_context(|| format!("copying {}", vars.display()))?;
        let monitor = Monitor::new(&folder.path().join("qmp"));
        let console = Console::new(&folder.path().join("console.log"), monitor.clone());
        fs::write(console.path(), "")?;
        let mut ports = Vec::new();
        for port in std::iter::once(keelson_api::PORT).chain(guest.forwards.iter().copied()) {
            ports.push((port, free_port()?));
        }
        let forwards: String = ports
            .iter()
            .map(|(guest, host)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"))
            .collect();
        let accel = accel(&guest.image.dir().join("vmlinuz"));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-name", name, "-machine", "q35"])
            .args(accel.options(guest.has_the_host))
            .args([
                "-m",
                &guest.memory_mib.to_string(),
                "-smp",
                &guest.cpus.to_string(),
            ])
            .args(["-nodefaults", "-display", "none", "-no-user-config"])
            .arg("-drive")
            .arg(format!(
                "if=pflash,format=raw,unit=0,readonly=on,file={}",
                code.display()
            ))
            .arg("-drive")
            .arg(format!(
                "if=pflash,format=raw,unit=1,file={}",
                own_vars.display()
            ))
            .args(drive(&disk, guest.writes.as_deref())?)
            .arg("-netdev")
            .arg(format!("user,id=net,restrict=on{forwards}"))
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-device", "virtio-rng-pci"])
            .args(["-device", "i6300esb", "-action", "watchdog=reset"])
            .arg("-serial")
            .arg(format!("file:{}", console.path().display()))
            .args(["-qmp", &monitor.option()]);
        if guest.balloon {
            command.args(["-device", &format!("virtio-balloon-pci,id={BALLOON}")]);
        }
        for (n, (file, serial)) in guest.disks.iter().enumerate() {
            command.arg("-drive").arg(format!(
                "if=none,id=more{n},format=raw,cache=unsafe,file={}",
                file.display()
            ));
            command
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive=more{n},serial={serial}"));
        }
        if let Some(config) = &guest.config {
            command.arg("-fw_cfg").arg(format!(
                "name=opt/org.keelson/config,file={}",
                config.display()
            ));
        }
        let errors = fs::File::create(folder.path().join("qemu.log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("starting qemu-system-x86_64 (package qemu-system-x86)")?;
        Ok(Vm {
            _attendant: Attendant::begin(name, &console, &monitor),
            name: name.to_owned(),
            child,
            folder,
            console,
            monitor,
            ports,
            detached: false,
        })
    }

    /// The guest's console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The folder with the guest's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The disk of a guest that was started with one of its own.
    pub fn disk(&self) -> PathBuf {
        self.folder().join(DISK)
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where a guest port is reachable.
    pub fn address(&self, port: u16) -> SocketAddr {
        let host = self
            .ports
            .iter()
            .find(|(guest, _)| *guest == port)
            .map_or(0, |(_, host)| *host);
        SocketAddr::from(([127, 0, 0, 1], host))
    }

    /// Where the API is reachable, as `osctl` takes it.
    pub fn endpoint(&self) -> String {
        self.address(keelson_api::PORT).to_string()
    }

    /// Waits until the node says that it waits for its config; returns its fingerprint.
    pub fn wait_for_maintenance(&self) -> Result<String> {
        let line = self.console.wait_for("--cert-fingerprint", BOOT)?;
        let fingerprint = line
            .split_whitespace()
            .skip_while(|word| *word != "--cert-fingerprint")
            .nth(1);
        fingerprint
            .map(str::to_owned)
            .with_context(|| format!("no fingerprint in {line:?}"))
    }

    /// Waits until the guest has powered itself off.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "QEMU ended with {status}");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!(
            "{} still runs after {}s; the console's end:\n{}",
            self.name,
            limit.as_secs(),
            self.console.end()
        )
    }

    /// Cuts the power.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Resets the machine as its button would.
    pub fn reset(&self) -> Result<()> {
        self.press("system_reset", json!({}))
    }

    /// Presses its power button.
    pub fn press_power_button(&self) -> Result<()> {
        self.press("system_powerdown", json!({}))
    }

    /// Presses Ctrl-Alt-Del on its keyboard.
    pub fn press_ctrl_alt_del(&self) -> Result<()> {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({"type": "qcode", "data": key}));
        self.press("send-key", json!({"keys": keys}))
    }

    /// What the guest's kernel says of its memory, where it has a balloon ([`Guest::balloon`]) and
    /// has loaded its driver.
    pub fn memory(&self) -> Result<Memory> {
        Memory::ask(&self.monitor, BALLOON)
    }

    /// Lets the guest run on after this program ends.
    pub fn detach(mut self) {
        self.detached = true;
    }

    fn press(&self, command: &str, arguments: Value) -> Result<()> {
        self.monitor.execute(command, arguments).map(drop)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        drop(self.child.kill());
        drop(self.child.wait());
        // Whether its test failed is not known here: one that ends with an error does not panic
        // before its machine is gone.
        let kept = target().join("consoles").join(format!("{}.log", self.name));
        let made = kept.parent().map(fs::create_dir_all);
        if !matches!(made, Some(Ok(()))) || self.console.keep(&kept).is_err() {
            eprintln!("the console of {} could not be kept", self.name);
        }
    }
}

/// QEMU's options for the disk. Whether its own file is ever flushed does not matter; where writes
/// are recorded, the guest's flushes are.
fn drive(disk: &Path, writes: Option<&Path>) -> Result<Vec<String>> {
    let Some(folder) = writes else {
        return Ok(vec![
            "-drive".into(),
            format!(
                "if=none,id=disk,format=qcow2,cache=unsafe,file={}",
                disk.display()
            ),
            "-device".into(),
            "virtio-blk-pci,drive=disk,bootindex=0".into(),
        ]);
    };
    Recording::begin(folder, disk)?;
    let nodes = [
        format!(
            "driver=file,node-name=file,cache.no-flush=on,filename={}",
            disk.display()
        ),
        "driver=qcow2,node-name=image,cache.no-flush=on,file=file".into(),
        format!(
            "driver=file,node-name=log,cache.no-flush=on,filename={}",
            folder.join(WRITES).display()
        ),
        "driver=blklogwrites,node-name=disk,file=image,log=log".into(),
    ];
    let mut options: Vec<String> = nodes
        .into_iter()
        .flat_map(|node| ["-blockdev".to_owned(), node])
        .collect();
    // Two things that blklogwrites of QEMU 7.2 cannot do: it may log a write of zeros over another
    // entry, and it fails a write of as many pieces as merged requests have.
    let device =
        "virtio-blk-pci,drive=disk,bootindex=0,write-cache=on,write-zeroes=off,request-merging=off";
    options.extend(["-device".into(), device.into()]);
    Ok(options)
}

/// Makes a disk that reads through to the image and is this large.
pub fn overlay(base: &Path, disk: &Path, gib: u32) -> Result<()> {
    let base = base
        .canonicalize()
        .with_context(|| format!("finding {}", base.display()))?;
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(&base)
        .arg(disk)
        .arg(format!("{gib}G"))
        .output()
        .context("starting qemu-img (package qemu-utils)")?;
    ensure!(
        output.status.success(),
        "qemu-img: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A port of loopback that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether guests run in software here, so that a person can be told why it takes long.
pub fn is_slow(image: &Image) -> bool {
    accel(&image.dir().join("vmlinuz")) == Accel::Tcg
}
