#!/bin/sh
# curl as a client: one process a call. Reads calls as JSON lines; bodies are made without a JSON tool.
base=${LAB_OPENAI_BASE:-https://api.openai.com/v1}
anthropic=${LAB_ANTHROPIC_BASE:-https://api.anthropic.com}
key=${LAB_KEY:-sk-lab-0123456789abcdef}
sizes=$(mktemp)
trap 'rm -f "$sizes"' EXIT
field() { printf '%s' "$1" | sed -n "s/.*\"$2\":\"\{0,1\}\([^\",}]*\)\"\{0,1\}.*/\1/p"; }
while IFS= read -r call; do
    api=$(field "$call" api) model=$(field "$call" model) stream=$(field "$call" stream) order=$(field "$call" order)
    usage=
    case $api in
    messages) url=$anthropic/v1/messages rest='"max_tokens":64,"messages":[{"role":"user","content":"'$order'"}]' ;;
    responses) url=$base/responses rest='"input":"'$order'"' ;;
    *)
        url=$base/chat/completions rest='"messages":[{"role":"user","content":"'$order'"}]'
        [ "$stream" = true ] && usage=',"stream_options":{"include_usage":true}'
        ;;
    esac
    "$LAB_CURL" "$LAB_CURL_VERSION" $LAB_CURL_FLAGS -sS -f -o /dev/null -w '"sent":%{size_upload},"received":%{size_download}' \
        -H "authorization: Bearer $key" -H 'content-type: application/json' \
        --data-raw '{"model":"'"$model"'","stream":'"$stream$usage,$rest"'}' "$url" >"$sizes" &
    pid=$!
    if wait "$pid"; then ok=true; else ok=false; fi
    printf '{"ok":%s,"order":"%s","pid":%s,%s}\n' "$ok" "$order" "$pid" "$(cat "$sizes")"
done
