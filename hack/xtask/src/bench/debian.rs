//! The Debian beside which Keelson is measured: trixie as debootstrap makes it
//! (minbase), with systemd, its network service, sshd, and Keelson's own kernel;
//! fewer packages than an installed Debian has, since nothing is recommended to
//! it. It boots as Keelson does: UEFI, systemd-boot, then the kernel's EFI stub.
//! Made once for each kernel and recipe.

use super::{
    answer::{self, Answer},
    guest::{self, SHUTDOWN, SSH},
    memory::{self, Idle},
    sizes::Sources,
};
use crate::step::{log, logged, step};
use anyhow::{Context, Result, bail, ensure};
use keelson_tests::{Image, Vm, overlay};
use std::{
    fs,
    io::{self, Seek as _, SeekFrom},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Changes whenever a disk made by an older xtask must not be used.
const RECIPE: u32 = 2;

/// Debian's keyring, as its package `debian-archive-keyring` installs it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Beside the packages of minbase.
const PACKAGES: &str = "systemd-sysv,udev,openssh-server,initramfs-tools,zstd";

/// The root's file system.
const ROOT_UUID: &str = "6b656c73-6f6e-4265-8e63-68206465626e";

const MIB: u64 = 1 << 20;
/// Where the two partitions begin and how large they are.
const ESP: (u64, u64) = (MIB, 128 * MIB);
const ROOT: (u64, u64) = (129 * MIB, 2048 * MIB);

/// Runs in the tree, with /proc.
const FINISH: &str = "
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt-get update
apt-get --yes dist-upgrade
apt-get --yes --no-install-recommends install linux-image-$1
systemctl enable systemd-networkd ssh
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt /var/cache/apt/*.bin
";

/// A disk that has never been booted.
pub(super) struct Built {
    disk: PathBuf,
    /// The client's key for SSH.
    key: PathBuf,
    /// The root's files, without kernel and initramfs: those are on the ESP.
    pub(super) tree: PathBuf,
}

/// Builds the disk, or takes the one that is there.
pub(super) fn build(root: &Path, folder: &Path, kernel: &str, sources: &Sources) -> Result<Built> {
    let built = Built {
        disk: folder.join("installed.raw"),
        key: folder.join("id_ed25519"),
        tree: folder.join("root"),
    };
    let stamp = folder.join("stamp");
    let inputs = format!("{RECIPE} {kernel}\n");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == inputs) {
        return Ok(built);
    }
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    step("bootstrap Debian trixie", || built.bootstrap(root))?;
    step("its updates, and Keelson's kernel", || {
        built.configure()?;
        built.finish(root, kernel)?;
        built.check_kernel(folder, kernel, sources)
    })?;
    step("Debian's disk", || {
        built.partition(root, folder, kernel, sources)
    })?;
    fs::write(stamp, inputs)?;
    Ok(built)
}

impl Built {
    fn bootstrap(&self, root: &Path) -> Result<()> {
        logged(
            Command::new("debootstrap")
                .args(["--variant=minbase", "--arch=amd64"])
                .arg(format!("--keyring={KEYRING}"))
                .arg(format!("--include={PACKAGES}"))
                .arg("trixie")
                .arg(&self.tree)
                .arg(mirror("KEELSON_MIRROR", "http://deb.debian.org/debian")),
            &log(root, "bench-debootstrap"),
        )
    }

    /// What an administrator would write.
    fn configure(&self) -> Result<()> {
        let main = mirror("KEELSON_MIRROR", "http://deb.debian.org/debian");
        let security = mirror(
            "KEELSON_SECURITY_MIRROR",
            "http://deb.debian.org/debian-security",
        );
        let sources = format!(
            "deb [signed-by={KEYRING}] {main} trixie main\n\
             deb [signed-by={KEYRING}] {main} trixie-updates main\n\
             deb [signed-by={KEYRING}] {security} trixie-security main\n"
        );
        let generated = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"])
            .arg(&self.key)
            .output()
            .context("starting ssh-keygen (package openssh-client)")?;
        ensure!(
            generated.status.success(),
            "ssh-keygen: {}",
            String::from_utf8_lossy(&generated.stderr)
        );
        let keys = fs::read_to_string(self.key.with_extension("pub"))?;
        let files = [
            ("etc/apt/sources.list", sources.as_str()),
            ("etc/hostname", "debian\n"),
            ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n"),
            (
                "etc/systemd/network/ether.network",
                "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\n",
            ),
            (
                "etc/fstab",
                &format!("UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n"),
            ),
            ("root/.ssh/authorized_keys", &keys),
        ];
        for (name, text) in files {
            let path = self.tree.join(name);
            fs::create_dir_all(path.parent().context("a file has a folder")?)?;
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        fs::set_permissions(
            self.tree.join("root/.ssh"),
            fs::Permissions::from_mode(0o700),
        )?;
        Ok(())
    }

    /// Updates, the kernel with its initramfs, the services.
    fn finish(&self, root: &Path, kernel: &str) -> Result<()> {
        let policy = self.tree.join("usr/sbin/policy-rc.d");
        // Nothing is started while the packages are set up.
        fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
        let keyring = self.tree.join(KEYRING.trim_start_matches('/'));
        ensure!(keyring.exists(), "the tree has no {KEYRING}");
        let resolver = self.tree.join("etc/resolv.conf");
        guest::fresh(&resolver)?;
        fs::copy("/etc/resolv.conf", &resolver).context("copying /etc/resolv.conf")?;
        // What is mounted in a mount namespace of its own goes with it.
        logged(
            Command::new("unshare")
                .args(["--mount", "--pid", "--fork"])
                .arg(format!("--mount-proc={}", self.tree.join("proc").display()))
                .arg("chroot")
                .arg(&self.tree)
                .args(["/bin/sh", "-euc", FINISH, "finish", kernel]),
            &log(root, "bench-debian"),
        )?;
        fs::remove_file(policy)?;
        guest::fresh(&resolver)
    }

    /// Both run the same kernel, byte by byte. Takes kernel and initramfs out of
    /// the tree: they belong on the ESP, and Keelson's root holds neither. Takes
    /// the device files out too: the kernel makes them at every boot.
    fn check_kernel(&self, folder: &Path, kernel: &str, sources: &Sources) -> Result<()> {
        let boot = folder.join("boot");
        fs::rename(self.tree.join("boot"), &boot)?;
        for name in ["boot", "dev"] {
            let path = self.tree.join(name);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            fs::create_dir(&path)?;
        }
        let own = boot.join(format!("vmlinuz-{kernel}"));
        ensure!(
            fs::read(&own)? == fs::read(sources.kernel())?,
            "{} is not the kernel of the image",
            own.display()
        );
        Ok(())
    }

    /// An ESP with systemd-boot, and the root as ext4.
    fn partition(&self, root: &Path, folder: &Path, kernel: &str, sources: &Sources) -> Result<()> {
        let log = log(root, "bench-disk");
        let esp = folder.join("esp");
        let entry = format!(
            "title Debian\nlinux /debian/vmlinuz\ninitrd /debian/initrd\n\
             options root=UUID={ROOT_UUID} {} systemd.show_status=auto\n",
            sources.plain_options()
        );
        for name in ["EFI/BOOT", "loader/entries", "debian"] {
            fs::create_dir_all(esp.join(name))?;
        }
        fs::write(esp.join("loader/loader.conf"), "timeout 0\neditor no\n")?;
        fs::write(esp.join("loader/entries/debian.conf"), entry)?;
        fs::copy(sources.boot_loader(), esp.join("EFI/BOOT/BOOTX64.EFI"))?;
        let boot = folder.join("boot");
        for (from, to) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")] {
            let from = boot.join(format!("{from}-{kernel}"));
            fs::copy(&from, esp.join("debian").join(to))
                .with_context(|| format!("copying {}", from.display()))?;
        }
        let disk = folder.join("disk.raw");
        guest::fresh(&disk)?;
        fs::File::create(&disk)?.set_len(ROOT.0 + ROOT.1 + MIB)?;
        let sectors =
            |(start, bytes): (u64, u64)| format!("{}:{}", start / 512, (start + bytes) / 512 - 1);
        logged(
            Command::new("sgdisk")
                .arg(format!("--new=1:{}", sectors(ESP)))
                .arg("--typecode=1:ef00")
                .arg(format!("--new=2:{}", sectors(ROOT)))
                .arg("--typecode=2:8304")
                .arg(&disk),
            &log,
        )?;
        let volume = folder.join("esp.img");
        guest::fresh(&volume)?;
        logged(
            Command::new("mkfs.vfat")
                .args(["-F", "32", "-C"])
                .arg(&volume)
                .arg((ESP.1 / 1024).to_string()),
            &log,
        )?;
        let mut copy = Command::new("mcopy");
        copy.arg("-s").arg("-i").arg(&volume);
        for name in ["EFI", "loader", "debian"] {
            copy.arg(esp.join(name));
        }
        logged(copy.arg("::/"), &log)?;
        let mut file = fs::File::options().write(true).open(&disk)?;
        file.seek(SeekFrom::Start(ESP.0))?;
        io::copy(&mut fs::File::open(volume)?, &mut file)?;
        drop(file);
        logged(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-U", ROOT_UUID, "-d"])
                .arg(&self.tree)
                .args(["-E", &format!("offset={}", ROOT.0)])
                .arg(&disk)
                .arg(format!("{}k", ROOT.1 / 1024)),
            &log,
        )?;
        fs::rename(disk, &self.disk)?;
        Ok(())
    }
}

/// The address of an archive: the one that image-builder takes too.
fn mirror(variable: &str, default: &str) -> String {
    std::env::var(variable)
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| default.to_owned())
        .trim_end_matches('/')
        .to_owned()
}

/// A disk that has been booted once.
pub(super) struct Installed {
    image: Image,
    disk: PathBuf,
    key: PathBuf,
}

impl Installed {
    /// Boots the disk for the first time and powers it off. The image only says
    /// on which hardware.
    pub(super) fn make(folder: &Path, image: &Image, built: &Built) -> Result<Installed> {
        let base = folder.join("debian.base.qcow2");
        guest::fresh(&base)?;
        logged(
            Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", "qcow2"])
                .args([&built.disk, &base]),
            &folder.join("qemu-img.log"),
        )?;
        let disk = folder.join("debian.qcow2");
        guest::fresh(&disk)?;
        overlay(&base, &disk, guest::DISK_GIB)?;
        let installed = Installed {
            image: image.clone(),
            disk,
            key: built.key.clone(),
        };
        let mut vm = guest::hardware(image).start_on("debian-bench", &installed.disk)?;
        installed.banner(&vm)?;
        // The connection ends before the answer does.
        installed.run(&vm, "systemctl --no-block poweroff")?;
        vm.wait_for_exit(SHUTDOWN)?;
        Ok(installed)
    }

    /// Boots it: the SSH banner, and the machine when it is idle.
    pub(super) fn measure(&self) -> Result<(Answer, Idle)> {
        let vm = guest::boot("debian-bench", &self.image, &self.disk)?;
        let answer = self.banner(&vm)?;
        let idle = memory::idle(&vm)?;
        Ok((answer, idle))
    }

    fn banner(&self, vm: &Vm) -> Result<Answer> {
        let address = vm.address(SSH);
        answer::first(vm, || answer::ssh_banner(address))
    }

    fn run(&self, vm: &Vm, script: &str) -> Result<String> {
        let address: SocketAddr = vm.address(SSH);
        let output = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"])
            .args(["-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=60", "-i"])
            .arg(&self.key)
            .args(["-p", &address.port().to_string()])
            .arg(format!("root@{}", address.ip()))
            .arg(script)
            .stdin(Stdio::null())
            .output()
            .context("starting ssh (package openssh-client)")?;
        if !output.status.success() {
            bail!(
                "over ssh, {script:?} ended with {}: {}\nthe console's end:\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                vm.console().end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
