//! The tag the kernel gives a program: the first eight bytes of a digest over its instructions, taken before the
//! verifier changes them and with map descriptors blanked out. SHA-1 in older kernels, SHA-256 in the newest.
//!
//! It says which instructions were loaded, so it is compared with what the gate approved. It is a fingerprint and no
//! proof against a hostile kernel.

use aya_obj::generated::bpf_insn;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::gate::instruction::{Instruction, LOAD_IMM64};

/// Which digest the kernel's tag agrees with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagMatch {
    Sha1,
    Sha256,
    /// Neither: a kernel that computes tags in a way not known here, or other instructions.
    Neither,
}

/// Compares the kernel's tag with the instructions handed to it.
pub(crate) fn compare(tag: [u8; 8], instructions: &[bpf_insn]) -> TagMatch {
    let bytes = blanked(instructions);
    if Sha256::digest(&bytes).starts_with(&tag) {
        TagMatch::Sha256
    } else if Sha1::digest(&bytes).starts_with(&tag) {
        TagMatch::Sha1
    } else {
        TagMatch::Neither
    }
}

/// The instructions as bytes, immediates of map references zeroed (`bpf_prog_calc_tag`).
fn blanked(instructions: &[bpf_insn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(instructions.len() * 8);
    let (mut second_half, mut of_map) = (false, false);
    for raw in instructions {
        let decoded = Instruction::from_kernel(raw);
        let first_half = !second_half && decoded.code == LOAD_IMM64;
        let of_map_now = first_half && matches!(decoded.src, 1 | 2);
        let imm = if of_map_now || (second_half && of_map) { 0 } else { decoded.imm };
        bytes.extend([decoded.code, decoded.dst | decoded.src << 4]);
        bytes.extend(decoded.off.to_ne_bytes());
        bytes.extend(imm.to_ne_bytes());
        (second_half, of_map) = (first_half, of_map_now);
    }
    bytes
}
