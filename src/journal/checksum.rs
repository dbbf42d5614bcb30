//! The sums that tell what was written from what was not.

use crc_fast::CrcAlgorithm;

/// CRC-32C (iSCSI), of headers and of pieces of data.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-64/NVME, of what a frame carries.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}
