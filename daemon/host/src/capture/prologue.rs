//! Where in a function a probe goes so that it costs the function's callers least.
//!
//! A breakpoint's price is what the kernel then does with the instruction it replaced: a push, a jump or a call it
//! carries out itself (0.9 us where this was measured), any other one it steps through with a second trap (10 us), and
//! most functions begin with one of those. So the probe moves to the first cheap instruction, provided that nothing it
//! is there to see has changed by then. Two ways lead to one, each shown by decoding and neither guessed:
//!
//! - [`cheap_entry`]: a few instructions into the function itself, as long as arguments, stack pointer and memory are
//!   untouched (so that the return address is where a return probe looks for it) and no jump leads there;
//! - [`hands_on_to`]: the beginning of another function, when this one does nothing but hand it the same arguments and
//!   return its result.
//!
//! Whoever cannot be shown one is probed at its first byte. The bytes are another process's: whatever does not decode
//! ends the search, and every search is bounded.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register,
};

/// Bytes of a function that are looked at: no TLS call is longer, and `getaddrinfo` has a tenth of it.
pub(super) const BODY_BYTES_MAX: u64 = 64 << 10;
/// Instructions that are passed before a probe.
const STEPS_MAX: usize = 16;

/// Register of the fourth argument (System V ABI for x86_64, section 3.2.3).
pub(super) const FOURTH: Register = Register::RCX;
/// Register of the fifth.
pub(super) const FIFTH: Register = Register::R8;

/// A function's code, from its first byte on.
pub(super) struct Code {
    /// Its address, as the file says.
    pub(super) address: u64,
    /// Its bytes, or the first of them.
    pub(super) bytes: Vec<u8>,
    /// They are the whole function.
    pub(super) whole: bool,
}

impl Code {
    fn instructions(&self) -> impl Iterator<Item = Instruction> {
        let mut decoder = Decoder::with_ip(64, &self.bytes, self.address, DecoderOptions::NONE);
        std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
    }

    fn at(&self, instruction: &Instruction) -> &[u8] {
        let from = usize::try_from(instruction.ip().wrapping_sub(self.address)).unwrap_or(usize::MAX);
        self.bytes.get(from..).unwrap_or_default()
    }

    /// True if a direct jump or call of its own leads to `address`.
    pub(super) fn leads_to(&self, address: u64) -> bool {
        self.instructions().any(|instruction| target(&instruction) == Some(address))
    }
}

/// Address of the first instruction that the kernel carries out itself and at which everything is as it was at the
/// function's entry: the first three arguments, the one in `fourth`, stack, memory.
pub(super) fn cheap_entry(code: &Code, fourth: Register) -> Option<u64> {
    let mut facts = InstructionInfoFactory::new();
    for instruction in code.instructions().take(STEPS_MAX) {
        if is_emulated(code.at(&instruction)) {
            let address = instruction.ip();
            let once = address == code.address || code.whole && !code.leads_to(address);
            return once.then_some(address);
        }
        let untouched = instruction.flow_control() == FlowControl::Next
            && !writes_memory(&mut facts, &instruction)
            && !writes(&mut facts, &instruction, |to| to == Register::RSP || is_argument(to, fourth));
        if !untouched {
            return None;
        }
    }
    None
}

/// The function that gets this one's arguments and whose result this one returns: unchanged, or changed where it is no
/// success (a negative one to 0). With the register of the fourth argument there, which is in `fourth` here: some move
/// it to where the fifth belongs (OpenSSL from 3.2 on, to put flags before it).
pub(super) fn hands_on_to(code: &Code, fourth: Register) -> Option<(u64, Register)> {
    let mut facts = InstructionInfoFactory::new();
    let mut steps = code.instructions().take(STEPS_MAX);
    let mut fourth = fourth;
    let inner = loop {
        let instruction = steps.next()?;
        let moves = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_register() == FIFTH
            && instruction.op1_register() == fourth;
        match instruction.flow_control() {
            FlowControl::Next if moves => fourth = FIFTH,
            FlowControl::Next if writes(&mut facts, &instruction, |to| is_argument(to, fourth)) => {
                return None;
            }
            FlowControl::Next => {}
            FlowControl::UnconditionalBranch => {
                return target(&instruction).filter(|to| !code.holds(*to)).map(|to| (to, fourth));
            }
            FlowControl::Call => break target(&instruction)?,
            _ => return None,
        }
    };
    for instruction in steps {
        match instruction.flow_control() {
            FlowControl::Return => return Some((inner, fourth)),
            FlowControl::Next => {}
            _ => return None,
        }
        let only_failures =
            matches!(instruction.mnemonic(), Mnemonic::Cmovs | Mnemonic::Cmovl | Mnemonic::Cmovle);
        if !only_failures && writes(&mut facts, &instruction, |to| to == Register::RAX) {
            return None;
        }
    }
    None
}

fn is_argument(register: Register, fourth: Register) -> bool {
    matches!(register, Register::RDI | Register::RSI | Register::RDX) || register == fourth
}

impl Code {
    fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|offset| offset < self.bytes.len() as u64)
    }
}

/// Instructions that the kernel's uprobes emulate since Linux 4.18 (`branch_setup_ops` and `push_setup_ops` in
/// `arch/x86/kernel/uprobes.c`), without prefixes: it refuses some of those with.
pub(super) fn is_emulated(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        // push
        [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..]
        // jump if
        | [0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..]
        // call, jump, nop of one byte
        | [0xe8 | 0xe9 | 0xeb | 0x90, ..]
    )
}

/// Where a direct jump or call leads.
fn target(instruction: &Instruction) -> Option<u64> {
    let direct = instruction.is_jmp_short_or_near()
        || instruction.is_jcc_short_or_near()
        || instruction.is_call_near()
        || instruction.is_loop()
        || instruction.is_loopcc()
        || instruction.is_jcx_short();
    direct.then(|| instruction.near_branch_target())
}

fn writes(
    facts: &mut InstructionInfoFactory,
    instruction: &Instruction,
    which: impl Fn(Register) -> bool,
) -> bool {
    let info = facts.info(instruction);
    info.used_registers().iter().any(|used| is_write(used.access()) && which(used.register().full_register()))
}

fn writes_memory(facts: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    facts.info(instruction).used_memory().iter().any(|used| is_write(used.access()))
}

fn is_write(access: OpAccess) -> bool {
    !matches!(access, OpAccess::None | OpAccess::NoMemAccess | OpAccess::Read | OpAccess::CondRead)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: u64 = 0x1000;

    fn code(bytes: &[u8]) -> Code {
        Code { address: AT, bytes: bytes.to_vec(), whole: true }
    }

    #[test]
    fn a_probe_moves_only_past_what_changes_nothing() {
        let check = |bytes: &[u8], expected: Option<u64>, why: &str| {
            assert_eq!(cheap_entry(&code(bytes), FOURTH).map(|address| address - AT), expected, "{why}");
        };
        check(&[0x55, 0xc3], Some(0), "push rbp");
        check(&[0x41, 0x57, 0xc3], Some(0), "push r15");
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55], Some(4), "endbr64; push rbp");
        check(&[0x85, 0xd2, 0x78, 0x10], Some(2), "test edx, edx; js");
        check(&[0x48, 0x85, 0xff, 0x0f, 0x84, 0x97, 3, 0, 0], Some(3), "test rdi, rdi; je near");
        check(&[0x31, 0xc0, 0x49, 0x89, 0xfa, 0x53], Some(5), "xor eax, eax; mov r10, rdi; push rbx");
        check(&[0x90, 0xc3], Some(0), "nop");
        check(&[0xe8, 0, 0, 0, 0], Some(0), "call");
        check(&[0x48, 0x83, 0xec, 0x08, 0x53], None, "sub rsp, 8; push rbx");
        check(&[0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0x10], None, "mov r8, rcx; xor ecx, ecx; jmp");
        check(&[0x45, 0x31, 0xc0, 0xe9, 0x68, 0xfb, 0xff, 0xff], Some(3), "xor r8d, r8d; jmp");
        check(&[0x8b, 0x3f, 0x53], None, "mov edi, [rdi]; push rbx");
        check(&[0x48, 0x89, 0x04, 0x24, 0x53], None, "mov [rsp], rax; push rbx");
        check(&[0xc3, 0x53], None, "ret");
        check(&[0xff, 0xe0, 0x53], None, "jmp rax");
        check(&[0x66, 0xe9, 0, 0, 0, 0], None, "a jump with a prefix, which the kernel refuses to probe");
        check(
            &[0x85, 0xc0, 0x53, 0x5b, 0xeb, 0xfc],
            None,
            "test eax, eax; push rbx; pop rbx; jmp to the push",
        );
        check(&[0x53, 0x5b, 0xeb, 0xfc], Some(0), "push rbx; pop rbx; jmp to the start: a call of itself");
        check(&[0x06], None, "no instruction");
        check(&[], None, "nothing");
        check(&[0x31; 64], None, "too far away");
        let unknown_end = Code { whole: false, ..code(&[0x85, 0xc0, 0x53]) };
        assert_eq!(cheap_entry(&unknown_end, FOURTH), None, "what is not seen may jump there");
    }

    #[test]
    fn a_wrapper_is_one_only_if_it_changes_nothing() {
        let check = |bytes: &[u8], expected: Option<(u64, Register)>, why: &str| {
            let found = hands_on_to(&code(bytes), FOURTH);
            assert_eq!(found.map(|(address, fourth)| (address - AT, fourth)), expected, "{why}");
        };
        const CALL: [u8; 5] = [0xe8, 0xfb, 0, 0, 0];
        let with = |before: &[u8], after: &[u8]| [before, &CALL, after].concat();
        let sub = [0x48, 0x83, 0xec, 0x08];
        let result = [0x31, 0xd2, 0x85, 0xc0, 0x0f, 0x48, 0xc2, 0x48, 0x83, 0xc4, 0x08, 0xc3];
        check(
            &with(&sub, &result),
            Some((0x104, FOURTH)),
            "sub rsp, 8; call; negative to 0; add rsp, 8; ret",
        );
        check(
            &with(&sub, &[0x48, 0x83, 0xc4, 0x08, 0xc3]),
            Some((0x104, FOURTH)),
            "sub rsp, 8; call; add rsp, 8; ret",
        );
        check(&[0xe9, 0xfb, 0, 0, 0], Some((0x100, FOURTH)), "jmp to another function");
        check(&[0xeb, 0x00, 0xc3], None, "jmp within");
        let moved = [0x49, 0x89, 0xc8, 0x31, 0xc9, 0xe9, 0xf6, 0, 0, 0];
        check(&moved, Some((0x100, FIFTH)), "mov r8, rcx; xor ecx, ecx; jmp");
        check(&[&moved[..5], &[0x45, 0x31, 0xc0], &CALL, &[0xc3]].concat(), None, "moved, then overwritten");
        check(&with(&[0x31, 0xc9], &result), None, "xor ecx, ecx; call");
        check(&with(&[0x48, 0x63, 0xd2], &result), None, "movslq rdx, edx; call");
        check(&with(&[0x85, 0xd2, 0x78, 0x10], &result), None, "test edx, edx; js; call");
        check(&with(&sub, &[0xb8, 1, 0, 0, 0, 0xc3]), None, "call; mov eax, 1; ret");
        check(&with(&sub, &[0x0f, 0x45, 0xc2, 0xc3]), None, "call; cmovne eax, edx; ret");
        check(&with(&sub, &[0x85, 0xc0, 0x75, 0x01, 0xc3]), None, "call; test; jne; ret");
        check(&with(&sub, &CALL), None, "two calls");
        check(&[0xff, 0xd0, 0xc3], None, "call rax");
        check(&with(&sub, &[]), None, "no end");
        check(&[], None, "nothing");
    }

    proptest! {
        #[test]
        fn any_bytes_are_searched(bytes in prop::collection::vec(any::<u8>(), 0..200), address: u64, whole: bool) {
            let code = Code { address, bytes, whole };
            if let Some(at) = cheap_entry(&code, FOURTH) {
                prop_assert!(code.holds(at));
            }
            let _ = (hands_on_to(&code, FOURTH), code.leads_to(address));
        }
    }
}
