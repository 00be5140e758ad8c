//! Per-CPU counters kept by the kernel programs: what was seen, what was handed out, what was lost and why.
//!
//! One `PerCpuArray<u64>` named `COUNTERS`, indexed by [`Counter`]. They only grow.

crate::wire_enum! {
    /// Index into `COUNTERS`.
    Counter {
        /// Plaintext bytes of sessions known not to be AI that passed an armed call. None of them is copied.
        NotAiBytesSeen = 0,
        /// Plaintext bytes of such sessions that were copied out. Must stay 0: the invariant, measured.
        NotAiBytesEmitted = 1,
        /// Plaintext bytes of AI sessions that passed an armed call.
        AiBytesSeen = 2,
        /// Plaintext bytes of AI sessions copied out.
        AiBytesEmitted = 3,
        /// Plaintext bytes of sessions of unknown name that passed an armed call.
        UnknownBytesSeen = 4,
        /// Prefix bytes of sessions of unknown name copied out.
        PrefixBytesEmitted = 5,
        /// Bytes of a call beyond `CALL_BYTES_MAX`: a hole, not an error.
        CallTailBytesSkipped = 6,
        /// Sessions whose name matched the directory.
        SessionsAi = 7,
        /// Sessions whose name did not match.
        SessionsNotAi = 8,
        /// Host names looked up with `getaddrinfo`, whether or not they match.
        LookupsSeen = 9,
        /// Packets the tap looked at.
        TapPackets = 10,
        /// Packets the tap handed out.
        TapPacketsEmitted = 11,
        /// Loss: no room in `EVENTS` (records).
        LostEventsRingFull = 12,
        /// Loss: no room in `CONTENT` (records).
        LostContentRingFull = 13,
        /// Loss: no room in `CONTENT` (bytes of plaintext).
        LostContentRingFullBytes = 14,
        /// Loss: user memory could not be read (bytes of plaintext).
        LostUserFaultBytes = 15,
        /// Loss: a library call returned whose entry was not remembered (calls; its bytes are unknown).
        LostCallEntry = 16,
        /// Loss: the session table is full (calls).
        LostSessionsFull = 17,
        /// Loss: the connection table is full (connections).
        LostFlowsFull = 18,
        /// Loss: a ClientHello that spans segments was given up for another one before it was complete (hellos).
        LostHelloSplit = 19,
        /// Loss: a packet was longer than the copies of it (packets).
        LostPacketTruncated = 20,
        /// Loss: a later fragment of a datagram or segment, which has no ports (packets of an open tap).
        LostFragments = 21,
        /// Loss: more IPv6 extension headers than are walked (packets of an open tap).
        LostHeadersTooMany = 22,
        /// Loss: the table of QUIC connections is full (connections).
        LostDatagramsFull = 23,
        /// Entries made in the table of TLS sessions: less those removed and those it holds, they were evicted.
        SessionsInserted = 24,
        /// Entries removed from the table of TLS sessions.
        SessionsRemoved = 25,
        /// Entries made in the table of programs with sessions; none is removed.
        ProgramsInserted = 26,
        /// Entries removed from the table of verdicts, which main fills.
        VerdictsRemoved = 27,
        /// Entries made in the table of `getaddrinfo` calls between entry and return.
        LookupsInserted = 28,
        /// Entries removed from it.
        LookupsRemoved = 29,
    }
}

/// Number of counters.
pub const COUNT: usize = Counter::ALL.len();
