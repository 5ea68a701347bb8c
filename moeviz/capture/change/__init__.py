"""What if the routers decided otherwise?"""
