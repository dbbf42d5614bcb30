//! Where a disk is attached, and its processors. Source: Linux Documentation/ABI/stable/sysfs-devices-node.

use crate::sys::affinity::{confine_thread, parse_processor_list};
use nix::unistd::Pid;

/// Confines `threads` to the processors of the node that a block device is attached to. Both outcomes are
/// sentences for the operator.
pub(super) fn confine_near(
    device_major: u32,
    device_minor: u32,
    threads: impl Iterator<Item = Pid>,
) -> Result<String, String> {
    let nodes = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    if parse_processor_list(&nodes).len() < 2 {
        return Err("this machine has one memory node".to_owned());
    }
    let node = node_of(device_major, device_minor).ok_or_else(|| {
        format!("the node of block device {device_major}:{device_minor} is not known")
    })?;
    let list = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"))
        .map_err(|error| format!("the processors of node {node} are not known: {error}"))?;
    let processors = parse_processor_list(&list);
    for thread in threads {
        confine_thread(thread, &processors)
            .map_err(|error| format!("moving a thread to node {node}: {error}"))?;
    }
    Ok(format!("ring threads run on node {node}"))
}

/// A partition has no device of its own: its disk is the directory above.
fn node_of(device_major: u32, device_minor: u32) -> Option<u32> {
    let block = format!("/sys/dev/block/{device_major}:{device_minor}");
    ["device", "../device", "device/device", "../device/device"]
        .iter()
        .filter_map(|way| std::fs::read_to_string(format!("{block}/{way}/numa_node")).ok())
        .find_map(|text| text.trim().parse::<i32>().ok())
        .and_then(|node| u32::try_from(node).ok())
}
