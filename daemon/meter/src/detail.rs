//! Counts that few providers report: tokens by modality and lifetime, and what is billed in other units than tokens.
//!
//! They refine the counts of [`crate::exchange::Usage`] and never add to them: audio in a cache is part of what was read
//! from the cache, and that is part of the input. What compaction and an adviser used is apart: the provider counts it
//! beside the answer and bills it.

macro_rules! details {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal,)+) => {
        /// One such count.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Detail {
            $($(#[$doc])* $variant,)+
        }

        impl Detail {
            /// Each of them.
            pub const ALL: &[Detail] = &[$(Detail::$variant,)+];

            /// Name in the API.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Detail::$variant => $name,)+
                }
            }

            /// Number on disk; never used for another.
            pub fn code(self) -> u32 {
                match self {
                    $(Detail::$variant => $code,)+
                }
            }
        }
    };
}

details! {
    /// Part of the input that is text.
    TextInput = 1 "text_input_tokens",
    /// Part of the input that is video.
    VideoInput = 2 "video_input_tokens",
    /// Part of the input that is documents.
    DocumentInput = 3 "document_input_tokens",
    /// Part of the input that tools of the provider put in.
    ToolInput = 4 "tool_input_tokens",
    /// Part of the input that is text of cited sources.
    CitationInput = 5 "citation_tokens",
    /// Part of what was read from a cache that is text.
    CachedText = 6 "cached_text_input_tokens",
    /// Part of what was read from a cache that is audio.
    CachedAudio = 7 "cached_audio_input_tokens",
    /// Part of what was read from a cache that is images.
    CachedImage = 8 "cached_image_input_tokens",
    /// Part of what was read from a cache that is video.
    CachedVideo = 9 "cached_video_input_tokens",
    /// Part of what was written to a cache that lives for 30 minutes.
    CacheCreation30m = 10 "cache_creation_30m_input_tokens",
    /// Part of what was written to a cache that lives for 12 hours.
    CacheCreation12h = 11 "cache_creation_12h_input_tokens",
    /// Part of the output that is text.
    TextOutput = 12 "text_output_tokens",
    /// Part of the output that is video.
    VideoOutput = 13 "video_output_tokens",
    /// Part of the output that the request predicted right.
    AcceptedPrediction = 14 "accepted_prediction_tokens",
    /// Part of the output that the request predicted wrong; billed nevertheless.
    RejectedPrediction = 15 "rejected_prediction_tokens",
    /// Input tokens that are billed, where the provider states other ones than it used.
    BilledInput = 16 "billed_input_tokens",
    /// Output tokens that are billed, where the provider states other ones than it used.
    BilledOutput = 17 "billed_output_tokens",
    /// Images made.
    Images = 18 "images",
    /// Images in the request.
    InputImages = 19 "input_images",
    /// Pixels of images in the request.
    ImagePixels = 20 "image_pixels",
    /// Pixels of videos in the request.
    VideoPixels = 21 "video_pixels",
    /// Audio in the request, ms.
    AudioInputMs = 22 "audio_input_ms",
    /// Characters that are billed.
    Characters = 23 "characters",
    /// Pages that were read.
    Pages = 24 "pages",
    /// Searches as rerank and retrieval bill them: one query with up to so many documents.
    SearchUnits = 25 "search_units",
    /// Texts that were classified.
    Classifications = 26 "classifications",
    /// Searches in the web that the model made, where they have a price of their own.
    SearchQueries = 27 "search_queries",
    /// Sources that the model looked at.
    Sources = 28 "sources",
    /// Pages that the provider's tools fetched.
    WebFetchRequests = 29 "web_fetch_requests",
    /// Searches in the web that the provider's tool made, as the answer lists them.
    WebSearchCalls = 30 "web_search_calls",
    /// Searches in the caller's files that the provider's tool made, as the answer lists them.
    FileSearchCalls = 31 "file_search_calls",
    /// Runs of code that the provider's tool made, as the answer lists them.
    CodeInterpreterCalls = 32 "code_interpreter_calls",
    /// Input that was not cached and that summing the conversation up used, beside the answer.
    CompactionInput = 33 "compaction_input_tokens",
    /// The same, read from a cache.
    CompactionCacheRead = 34 "compaction_cache_read_input_tokens",
    /// The same, written to a cache.
    CompactionCacheCreation = 35 "compaction_cache_creation_input_tokens",
    /// Output of summing the conversation up, beside the answer.
    CompactionOutput = 36 "compaction_output_tokens",
    /// Time that the model ran, ms, where that is what is billed.
    ComputeMs = 37 "compute_ms",
    /// Input that was not cached and that asking another model for advice used, beside the answer.
    AdvisorInput = 38 "advisor_input_tokens",
    /// The same, read from a cache.
    AdvisorCacheRead = 39 "advisor_cache_read_input_tokens",
    /// The same, written to a cache.
    AdvisorCacheCreation = 40 "advisor_cache_creation_input_tokens",
    /// Output of the model that was asked for advice, beside the answer.
    AdvisorOutput = 41 "advisor_output_tokens",
    /// Audio in the answer, ms.
    AudioOutputMs = 42 "audio_output_ms",
    /// Audio of both directions that is billed by its length, ms.
    BillableAudioMs = 43 "billable_audio_ms",
}

/// What was reported of them; the rest is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Details {
    /// One bit for each that was reported.
    known: u64,
    /// 0 where nothing was.
    counts: [u64; Detail::ALL.len()],
}

const _: () = assert!(Detail::ALL.len() <= u64::BITS as usize);

impl Default for Details {
    fn default() -> Details {
        Details { known: 0, counts: [0; Detail::ALL.len()] }
    }
}

impl Details {
    /// The count, if it was reported.
    pub fn get(&self, detail: Detail) -> Option<u64> {
        (self.known & Details::bit(detail) != 0).then(|| self.counts.get(detail as usize).copied())?
    }

    /// Sets a count that was reported.
    pub fn set(&mut self, detail: Detail, count: u64) {
        self.known |= Details::bit(detail);
        self.put(detail, count);
    }

    /// Forgets a count.
    pub fn unset(&mut self, detail: Detail) {
        self.known &= !Details::bit(detail);
        self.put(detail, 0);
    }

    fn put(&mut self, detail: Detail, count: u64) {
        if let Some(slot) = self.counts.get_mut(detail as usize) {
            *slot = count;
        }
    }

    fn bit(detail: Detail) -> u64 {
        1 << detail as u8
    }

    /// Adds to a count.
    pub fn add(&mut self, detail: Detail, more: u64) {
        self.set(detail, self.get(detail).unwrap_or(0).saturating_add(more));
    }

    /// What was reported.
    pub fn iter(&self) -> impl Iterator<Item = (Detail, u64)> + '_ {
        Detail::ALL.iter().filter_map(|detail| self.get(*detail).map(|count| (*detail, count)))
    }

    /// Adds all that `more` reports.
    pub fn add_all(&mut self, more: &Details) {
        more.iter().for_each(|(detail, count)| self.add(detail, count));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_numbers_are_unique() {
        let names: HashSet<_> = Detail::ALL.iter().map(|detail| detail.as_str()).collect();
        let codes: HashSet<_> = Detail::ALL.iter().map(|detail| detail.code()).collect();
        assert_eq!((names.len(), codes.len()), (Detail::ALL.len(), Detail::ALL.len()));
        assert!(!codes.contains(&0), "0 stands for none");
    }

    #[test]
    fn what_is_reported_is_told_from_what_is_not() {
        let mut sum = Details::default();
        assert_eq!(sum.iter().count(), 0);
        sum.set(Detail::Images, 0);
        sum.add(Detail::Pages, 2);
        let mut more = Details::default();
        more.add(Detail::Pages, 3);
        sum.add_all(&more);
        assert_eq!(sum.iter().collect::<Vec<_>>(), [(Detail::Images, 0), (Detail::Pages, 5)]);
        sum.add(Detail::Pages, u64::MAX);
        assert_eq!(sum.get(Detail::Pages), Some(u64::MAX));
        for detail in Detail::ALL {
            let mut one = Details::default();
            one.set(*detail, 7);
            assert_eq!(one.iter().collect::<Vec<_>>(), [(*detail, 7)]);
            one.unset(*detail);
            assert_eq!(one, Details::default());
        }
    }
}
