//! One BPF instruction, decoded (RFC 9669 section 3), and the walk over a program that steps over the second half of
//! a 64-bit immediate load.

use aya_obj::generated::bpf_insn;

/// `BPF_LD | BPF_IMM | BPF_DW`: takes two slots.
pub(crate) const LOAD_IMM64: u8 = 0x18;
/// `BPF_JMP | BPF_CALL`.
pub(crate) const CALL: u8 = 0x85;
/// `BPF_JMP | BPF_EXIT`.
pub(crate) const EXIT: u8 = 0x95;

/// Source register of [`CALL`]: a helper.
pub(crate) const CALL_HELPER: u8 = 0;
/// Source register of [`CALL`]: a subprogram.
pub(crate) const CALL_SUBPROGRAM: u8 = 1;
/// Source register of [`CALL`]: a kernel function.
pub(crate) const CALL_KFUNC: u8 = 2;

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) dst: u8,
    pub(crate) src: u8,
    pub(crate) off: i16,
    pub(crate) imm: i32,
}

impl Instruction {
    pub(crate) fn from_kernel(raw: &bpf_insn) -> Instruction {
        Instruction { code: raw.code, dst: raw.dst_reg(), src: raw.src_reg(), off: raw.off, imm: raw.imm }
    }

    pub(crate) fn from_bytes(raw: [u8; 8]) -> Instruction {
        let [code, registers, off0, off1, imm0, imm1, imm2, imm3] = raw;
        Instruction {
            code,
            dst: registers & 0x0f,
            src: registers >> 4,
            off: i16::from_le_bytes([off0, off1]),
            imm: i32::from_le_bytes([imm0, imm1, imm2, imm3]),
        }
    }

    /// Number of the helper it calls.
    pub(crate) fn helper(&self) -> Option<i32> {
        (self.code == CALL && self.src == CALL_HELPER).then_some(self.imm)
    }

    /// Low three bits of the opcode.
    pub(crate) fn class(&self) -> u8 {
        self.code & 0x07
    }
}

/// Every instruction with its slot number.
pub(crate) fn walk(all: &[Instruction]) -> impl Iterator<Item = (usize, &Instruction)> {
    let mut skip = false;
    all.iter().enumerate().filter(move |(_, instruction)| {
        let second_half = skip;
        skip = !second_half && instruction.code == LOAD_IMM64;
        !second_half
    })
}
