# Executed by the staging Job with `bash -euo pipefail`. A second run downloads what is missing and nothing else.
# HF_HOME, HF_ENDPOINT and HF_TOKEN are honoured; HF_TOKEN comes from a Secret and is never printed.
lists=/etc/s2l-stage
while read -r model revision; do
  echo "model $model, revision ${revision:-main}"
  hf download "$model" --revision "${revision:-main}" --exclude 'original/*' --exclude '*.pth' --exclude '*.gguf' --quiet
done < <(grep --invert-match --extended-regexp '^ *(#|$)' $lists/models || true)
while read -r dataset revision; do
  echo "data $dataset, revision ${revision:-main}"
  hf download "$dataset" --repo-type dataset --revision "${revision:-main}" --local-dir "/data/${dataset##*/}" --quiet
done < <(grep --invert-match --extended-regexp '^ *(#|$)' $lists/datasets || true)
du --summarize --human-readable "$HF_HOME" /data
