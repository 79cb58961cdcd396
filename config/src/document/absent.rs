//! What is not in a config, though people look for it.

/// Keys that people look for and that are not there, by path, and why.
pub(crate) const NOT_THERE: &[(&str, &str)] = &[
    ("machine.kernel.args", KERNEL_ARGUMENTS),
    ("machine.kernel.arguments", KERNEL_ARGUMENTS),
    ("machine.kernel.cmdline", KERNEL_ARGUMENTS),
    ("machine.kernel.commandLine", KERNEL_ARGUMENTS),
    ("machine.kernel.extraArgs", KERNEL_ARGUMENTS),
    ("machine.kernel.extraArguments", KERNEL_ARGUMENTS),
    ("machine.kernel.extraKernelArgs", KERNEL_ARGUMENTS),
    ("machine.kernel.parameters", "set machine.sysctls"),
    ("machine.kernel.sysctls", "set machine.sysctls"),
    (
        "machine.watchdog.device",
        "the machine finds it by itself: see `osctl get watchdog`",
    ),
    (
        "machine.watchdog.enabled",
        "it cannot be switched off: it is what brings a machine back that hangs",
    ),
    ("storage.volumes[].disk.bus", "set transport"),
    ("storage.volumes[].filesystem", "every volume is ext4"),
    ("storage.volumes[].format", "every volume is ext4"),
    (
        "storage.volumes[].mountPoint",
        "it is at /var/mnt/ and its name",
    ),
    (
        "storage.volumes[].wipe",
        "nothing is deleted from a disk: empty it elsewhere",
    ),
    (
        "storage.volumes[].disk.path",
        "the kernel may call a disk otherwise after the next boot: use what `osctl get disks` shows of it, such as its serial",
    ),
    ("storage.swap.file", SWAP_ON_DISK),
    ("storage.swap.partition", SWAP_ON_DISK),
    (
        "storage.swap.swappiness",
        "set vm.swappiness in machine.sysctls",
    ),
];

const SWAP_ON_DISK: &str =
    "there is no swap on disks, which makes a machine too slow to answer: use zram";

const KERNEL_ARGUMENTS: &str = "the kernel's arguments are in the signed boot image: whoever builds it gives them, a config cannot";
