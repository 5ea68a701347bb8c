"""The server before Streamlit sees a request: who gets in, who asks, headers, uploads, metrics and logs."""
