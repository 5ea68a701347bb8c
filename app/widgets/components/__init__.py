"""Components for what Streamlit has no widget for. They know no page: data in, messages out."""
