//! Proof that a program never stores through its context pointer.
//!
//! Since 6.18 the kernel lets a uprobe program change the registers of the thread it interrupts by writing to its
//! context: an observing program type that can alter. So the pointer is followed through registers, stack slots and
//! subprograms, and a store or an atomic operation whose base may be derived from it is refused.
//!
//! The analysis over-approximates: `CONTEXT` means *may be the context pointer*, `STACK` *may point into a stack
//! frame*. Anything loaded from a map or from other memory is neither, because the kernel's verifier makes plain
//! numbers of pointers that leave the stack, and refuses stores through numbers.

use std::collections::BTreeMap;

use super::instruction::{CALL, CALL_SUBPROGRAM, EXIT, Instruction, LOAD_IMM64};

type Flags = u8;
const CONTEXT: Flags = 1;
const STACK: Flags = 2;
const FRAME_POINTER: usize = 10;
/// Instruction visits per program; the largest real program needs a few thousand. Beyond it the program is refused.
const VISITS_MAX: usize = 2_000_000;

#[derive(Clone, Default, PartialEq)]
struct State {
    registers: [Flags; 11],
    slots: BTreeMap<i16, Flags>,
}

impl State {
    /// Adds what is possible in `other`; true if that changed anything.
    fn join(&mut self, other: &State) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers) {
            *mine |= theirs;
        }
        for (slot, flags) in &other.slots {
            *self.slots.entry(*slot).or_default() |= flags;
        }
        *self != before
    }
}

/// Checks one linked program, subprograms included.
///
/// # Errors
/// The slot and the kind of the first store that may go through the context.
pub(crate) fn context_is_never_written(program: &[Instruction]) -> Result<(), (usize, &'static str)> {
    let mut analysis =
        Analysis { program, states: vec![None; program.len()], escaped: 0, returns: BTreeMap::new() };
    let mut entry = State::default();
    if let Some(first) = entry.registers.get_mut(1) {
        *first = CONTEXT;
    }
    entry.registers[FRAME_POINTER] = STACK;
    analysis.run(entry)
}

struct Analysis<'a> {
    program: &'a [Instruction],
    /// What may be true before each slot.
    states: Vec<Option<State>>,
    /// What was stored through a stack pointer other than the frame pointer, anywhere: such a slot has no name.
    escaped: Flags,
    /// What each subprogram may return, by its first slot, and who waits for it.
    returns: BTreeMap<usize, Flags>,
}

impl Analysis<'_> {
    fn run(&mut self, entry: State) -> Result<(), (usize, &'static str)> {
        // Facts that are not part of a state (escapes, results of subprograms) only grow; a pass that changes none of
        // them is complete.
        loop {
            let (escaped, returns) = (self.escaped, self.returns.clone());
            self.states = vec![None; self.program.len()];
            self.pass(entry.clone())?;
            if (escaped, &returns) == (self.escaped, &self.returns) {
                return Ok(());
            }
        }
    }

    fn pass(&mut self, entry: State) -> Result<(), (usize, &'static str)> {
        let mut work = vec![(0usize, 0usize, entry)];
        let mut visits = 0;
        while let Some((function, slot, state)) = work.pop() {
            visits += 1;
            if visits > VISITS_MAX {
                return Err((slot, "program is too complex to prove that the context is not written"));
            }
            let Some(known) = self.states.get_mut(slot) else { continue };
            let changed = match known {
                Some(known) => known.join(&state),
                None => {
                    *known = Some(state);
                    true
                }
            };
            if changed && let Some(state) = known.clone() {
                self.step(function, slot, state, &mut work)?;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        function: usize,
        slot: usize,
        mut state: State,
        work: &mut Vec<(usize, usize, State)>,
    ) -> Result<(), (usize, &'static str)> {
        let Some(&instruction) = self.program.get(slot) else { return Ok(()) };
        let (dst, src) = (usize::from(instruction.dst).min(10), usize::from(instruction.src).min(10));
        let mut next = slot + 1;
        match instruction.class() {
            0x00 => {
                if instruction.code == LOAD_IMM64 {
                    state.registers[dst] = 0;
                    next = slot + 2;
                } else {
                    clobber(&mut state);
                }
            }
            0x01 => state.registers[dst] = self.loaded(&state, src, &instruction),
            0x02 | 0x03 => {
                if state.registers[dst] & CONTEXT != 0 {
                    return Err((slot, "store through the context pointer"));
                }
                let stored = if instruction.class() == 0x03 { state.registers[src] } else { 0 };
                self.store(&mut state, dst, &instruction, stored);
                if instruction.code & 0xe0 == 0xc0 {
                    // An atomic operation leaves a number in its source register.
                    state.registers[src] = 0;
                }
            }
            0x04 | 0x07 => {
                let from_register = if instruction.code & 0x08 != 0 { state.registers[src] } else { 0 };
                let is_move = instruction.code & 0xf0 == 0xb0;
                state.registers[dst] =
                    if is_move { from_register } else { state.registers[dst] | from_register };
            }
            _ => return self.jump(function, slot, state, work),
        }
        work.push((function, next, state));
        Ok(())
    }

    fn jump(
        &mut self,
        function: usize,
        slot: usize,
        mut state: State,
        work: &mut Vec<(usize, usize, State)>,
    ) -> Result<(), (usize, &'static str)> {
        let Some(&instruction) = self.program.get(slot) else { return Ok(()) };
        if instruction.code == EXIT {
            *self.returns.entry(function).or_default() |= state.registers[0];
            return Ok(());
        }
        if instruction.code == CALL {
            let mut result = 0;
            if instruction.src == CALL_SUBPROGRAM {
                let callee = displaced(slot, i64::from(instruction.imm));
                let mut entry = State::default();
                entry.registers[..6].copy_from_slice(&state.registers[..6]);
                entry.registers[0] = 0;
                entry.registers[FRAME_POINTER] = STACK;
                // The callee may reach the caller's slots through a pointer: what they hold has no name there.
                if entry.registers[1..6].iter().any(|flags| flags & STACK != 0) {
                    self.escaped |= state.slots.values().fold(0, |all, flags| all | flags);
                }
                work.push((callee, callee, entry));
                result = self.returns.get(&callee).copied().unwrap_or_default();
            }
            clobber(&mut state);
            state.registers[0] = result;
            work.push((function, slot + 1, state));
            return Ok(());
        }
        // 0x05 jumps by the offset, 0x06 (JMP32 always) by the immediate; the others both fall through and jump.
        let long = instruction.code == 0x06;
        let distance = if long { i64::from(instruction.imm) } else { i64::from(instruction.off) };
        work.push((function, displaced(slot, distance), state.clone()));
        if !long && instruction.code != 0x05 {
            work.push((function, slot + 1, state));
        }
        Ok(())
    }

    fn loaded(&self, state: &State, base: usize, instruction: &Instruction) -> Flags {
        // Only a whole 8-byte load can bring a pointer back (size bits 0x18).
        if instruction.code & 0x18 != 0x18 || state.registers[base] & STACK == 0 {
            return 0;
        }
        if base == FRAME_POINTER {
            return state.slots.get(&instruction.off).copied().unwrap_or_default() | self.escaped;
        }
        state.slots.values().fold(self.escaped, |all, flags| all | flags)
    }

    fn store(&mut self, state: &mut State, base: usize, instruction: &Instruction, stored: Flags) {
        if base == FRAME_POINTER {
            state.slots.insert(instruction.off, stored);
        } else if state.registers[base] & STACK != 0 {
            self.escaped |= stored;
        }
    }
}

/// A call leaves nothing in the argument registers.
fn clobber(state: &mut State) {
    state.registers[..6].fill(0);
}

fn displaced(slot: usize, distance: i64) -> usize {
    usize::try_from(slot as i64 + 1 + distance).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `program` is a list of (opcode, dst, src, offset, immediate).
    fn check(program: &[(u8, u8, u8, i16, i32)], expected: Result<(), usize>) {
        let program: Vec<Instruction> = program
            .iter()
            .map(|&(code, dst, src, off, imm)| Instruction { code, dst, src, off, imm })
            .collect();
        assert_eq!(context_is_never_written(&program).map_err(|(slot, _)| slot), expected);
    }

    const EXIT_0: (u8, u8, u8, i16, i32) = (0x95, 0, 0, 0, 0);

    #[test]
    fn stores_to_the_stack_and_loads_from_the_context_pass() {
        check(&[(0x79, 2, 1, 112, 0), (0x7b, 10, 2, -8, 0), EXIT_0], Ok(()));
    }

    #[test]
    fn a_direct_store_is_found() {
        check(&[(0x7a, 1, 0, 80, 7), EXIT_0], Err(0));
    }

    #[test]
    fn a_moved_pointer_is_followed() {
        check(&[(0xbf, 6, 1, 0, 0), (0x07, 6, 0, 0, 8), (0x7b, 6, 2, 0, 0), EXIT_0], Err(2));
    }

    #[test]
    fn a_spilled_pointer_is_followed() {
        check(&[(0x7b, 10, 1, -8, 0), (0x79, 3, 10, -8, 0), (0x7a, 3, 0, 0, 1), EXIT_0], Err(2));
    }

    #[test]
    fn a_slot_that_was_overwritten_is_clean() {
        let spill = (0x7b, 10, 1, -8, 0);
        check(&[spill, (0x7a, 10, 0, -8, 0), (0x79, 3, 10, -8, 0), (0x7a, 3, 0, 0, 1), EXIT_0], Ok(()));
    }

    #[test]
    fn a_subprogram_that_gets_the_pointer_is_judged() {
        check(&[(0x85, 0, 1, 0, 1), EXIT_0, (0x7a, 1, 0, 0, 1), EXIT_0], Err(2));
    }

    #[test]
    fn a_subprogram_that_returns_the_pointer_is_followed() {
        check(&[(0x85, 0, 1, 0, 2), (0x7a, 0, 0, 0, 1), EXIT_0, (0xbf, 0, 1, 0, 0), EXIT_0], Err(1));
    }

    #[test]
    fn a_pointer_to_a_spilled_pointer_is_followed() {
        let address = [(0xbf, 2, 10, 0, 0), (0x07, 2, 0, 0, -8)];
        let body = [(0x7b, 10, 1, -8, 0), address[0], address[1], (0x85, 0, 1, 0, 1), EXIT_0];
        let callee = [(0x79, 3, 2, 0, 0), (0x7a, 3, 0, 0, 1), EXIT_0];
        check(&[body.as_slice(), callee.as_slice()].concat(), Err(6));
    }
}
