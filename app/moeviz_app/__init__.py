"""The Streamlit app over moeviz. Computes nothing: every number is a metric of the library."""
